"""Rate limits: documented rates with exact waits, by tenant; checked against a bucket that is simply filled."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytw import limits
from pytw.errors import LimitExceeded
from pytw.worker.context import rates
from pytw.worker.context.rates import Meter, Rate, RateLimits, duration, plugin_rates

S = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.ns = 17

    def __call__(self) -> int:
        return self.ns


class FilledBucket:
    """The oracle: so many calls are left, in exact fractions, and more flow in as time goes by."""

    def __init__(self, rate: Rate, compat: bool) -> None:
        self.size = self.left = Fraction(rate.calls)
        self.per_ns = Fraction(1 if compat else rate.calls, rate.period_ns)
        self.at = 0

    def take(self, now_ns: int) -> int:
        self.left = min(self.size, self.left + (now_ns - self.at) * self.per_ns)
        self.at = now_ns
        if self.left >= 1:
            self.left -= 1
            return 0
        wait = (1 - self.left) / self.per_ns
        return -(-wait.numerator // wait.denominator)


@given(
    rate=st.builds(Rate, st.integers(1, 40), st.integers(1, 1_000) | st.integers(1, 300 * S)),
    compat=st.booleans(),
    steps=st.lists(st.integers(0, 100) | st.integers(0, 10 * S), max_size=80),
)
def test_meter_is_a_bucket_that_is_filled_evenly(rate: Rate, compat: bool, steps: list[int]):
    meter, oracle, now, full_at = Meter(rate, compat=compat), FilledBucket(rate, compat), 0, 0
    for step in steps:
        now += step
        full_at, wait = meter.take(full_at, now)
        assert wait == oracle.take(now)


@given(rate=st.builds(Rate, st.integers(1, 40), st.integers(1, 300 * S)), compat=st.booleans(), now=st.integers(0, S))
def test_wait_that_is_named_is_exact(rate: Rate, compat: bool, now: int):
    """A nanosecond earlier is refused, at that time it is allowed."""
    meter, full_at, wait = Meter(rate, compat=compat), 0, 0
    for _ in range(rate.calls):
        full_at, wait = meter.take(full_at, now)
        assert wait == 0
    full_at, wait = meter.take(full_at, now)
    assert wait > 0
    assert meter.take(full_at, now + wait - 1)[1] == 1
    assert meter.take(full_at, now + wait)[1] == 0


def spend_all(limits: RateLimits, plugin: str, bucket: str, tenant: int = 1, most: int = 2_000) -> int:
    for count in range(most):
        try:
            limits.spend(tenant, plugin, bucket)
        except LimitExceeded:
            return count
    raise AssertionError("no limit")


@pytest.mark.parametrize(
    ("plugin", "bucket", "count", "period_s"),
    [
        ("discord", "get_guild", 20, 5),
        ("discord", "get_guild_commands", 1, 300),
        ("discord", "antiraid_bulk_op", 3, 1),
        ("discord", "get_followup_message", 10, 3),
        ("discord", "create_guild_ban", 5, 30),
        ("discord", "remove_guild_member", 10, 75),
        ("kv", "get", 500, 0.1),
        ("globalkv", "find", 30, 1),
        ("objectstorage", "upload_file", 75, 1),
        ("http", "send", 3, 5),
        ("runtime", "stats", 10, 1),
    ],
)
def test_rates_are_the_documented_ones(plugin: str, bucket: str, count: int, period_s: float):
    clock = Clock()
    limited = RateLimits(clock_ns=clock)
    for _ in range(3):
        assert spend_all(limited, plugin, bucket) == count
        clock.ns += int(period_s * S)


def test_compat_gives_back_one_call_per_period():
    clock = Clock()
    limited = RateLimits(compat=True, clock_ns=clock)
    assert spend_all(limited, "http", "send") == 3
    clock.ns += 5 * S
    assert spend_all(limited, "http", "send") == 1
    assert "create_guild_ban" not in plugin_rates(compat=True)["discord"].buckets


def test_errors_say_which_bucket_and_how_long():
    clock = Clock()
    limited = RateLimits(clock_ns=clock)
    spend_all(limited, "http", "send")
    clock.ns += 166_666_667
    with pytest.raises(LimitExceeded) as refused:
        limited.spend(1, "http", "send")
    assert refused.value.detail == "Global ratelimit hit for bucket 'send', wait time: 1.5s"
    spend_all(limited, "discord", "create_guild_command")
    with pytest.raises(LimitExceeded) as refused:
        limited.spend(1, "discord", "create_guild_command")
    assert refused.value.detail == "Per bucket ratelimit hit for 'create_guild_command', wait time: 300s"


def test_overall_share_is_spent_before_the_buckets_own():
    limited = RateLimits(clock_ns=Clock())
    limited.spend(1, "discord", "get_guild_commands")
    for _ in range(19):
        with pytest.raises(LimitExceeded, match="Per bucket"):
            limited.spend(1, "discord", "get_guild_commands")
    with pytest.raises(LimitExceeded, match="Global ratelimit hit for bucket 'get_guild'"):
        limited.spend(1, "discord", "get_guild")


@pytest.mark.parametrize(
    "bucket",
    [
        "antiraid_bulk_op",
        "antiraid_bulk_op_wait",
        "create_interaction_response",
        "edit_original_interaction_response",
        "create_followup_message",
    ],
)
def test_answers_to_interactions_are_not_counted_overall(bucket: str):
    limited = RateLimits(clock_ns=Clock())
    spend_all(limited, "discord", "get_guild")
    limited.spend(1, "discord", bucket)


@pytest.mark.parametrize("bucket", ["create_interaction_response", "antiraid_bulk_op_wait"])
def test_some_are_not_counted_at_all(bucket: str):
    limited = RateLimits(clock_ns=Clock())
    for _ in range(200):
        limited.spend(1, "discord", bucket)


def test_tenants_and_plugins_do_not_share():
    limited = RateLimits(clock_ns=Clock())
    assert spend_all(limited, "http", "send") == 3
    assert spend_all(limited, "http", "send", tenant=2) == 3
    assert spend_all(limited, "runtime", "stats") == 10


def test_tenants_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(rates, "RATE_TENANTS_MAX", 3)
    limited = RateLimits(clock_ns=Clock())
    for tenant in (1, 2, 3, 1, 4):
        spend_all(limited, "http", "send", tenant)
    assert len(limited) == 3
    assert spend_all(limited, "http", "send", tenant=1) == 0
    assert spend_all(limited, "http", "send", tenant=2) == 3
    assert limits.RATE_TENANTS_MAX >= 10_000


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (1, "1ns"),
        (999, "999ns"),
        (1_000, "1µs"),
        (1_500, "1.5µs"),
        (500_000_000, "500ms"),
        (1_666_667, "1.666667ms"),
        (S, "1s"),
        (1_500_000_000, "1.5s"),
        (1_000_000_001, "1.000000001s"),
        (299_999_999_999, "299.999999999s"),
    ],
)
def test_durations_read_as_in_the_reference(ns: int, text: str):
    assert duration(ns) == text
