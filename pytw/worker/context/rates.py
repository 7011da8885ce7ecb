"""How often a tenant may make which host call (spec luau-api 4.7).

A rate is "N per period": N calls at once, and what was used flows back evenly, so that N more are there a period later.
It is kept as one number, the time at which the bucket will be full again (GCRA), in whole parts of a nanosecond: no
rounding, so the wait that an error names is exact to the nanosecond.

The reference gives back one call per period in place of N, which no author expects: 20 per 5 s is there 20 at once and
then one every 5 s. `compat` is that. It also counts bans and kicks under names that no method has, so never; here they
count as what they are.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pytw.errors import LimitExceeded
from pytw.limits import RATE_TENANTS_MAX

_MS, _S = 1_000_000, 1_000_000_000


class Rate(NamedTuple):
    """So many calls in a period."""

    calls: int
    period_ns: int


class PluginRates(NamedTuple):
    """The rates of one plugin: over all its calls, and of single buckets besides."""

    overall: Rate
    buckets: Mapping[str, Rate] = {}
    #: Buckets that the overall rate leaves alone.
    exempt: frozenset[str] = frozenset()


_FOLLOW_UPS = (
    "get_original_interaction_response",
    "edit_original_interaction_response",
    "delete_original_interaction_response",
    "create_followup_message",
    "get_followup_message",
    "edit_followup_message",
    "delete_followup_message",
)
_BAN, _KICK = Rate(5, 30 * _S), Rate(10, 75 * _S)


def plugin_rates(*, compat: bool) -> dict[str, PluginRates]:
    """The documented rates, by plugin."""
    discord = {
        "create_message": Rate(30, 10 * _S),
        "get_guild_commands": Rate(1, 300 * _S),
        "create_guild_command": Rate(1, 300 * _S),
        "antiraid_bulk_op": Rate(3, _S),
        **dict.fromkeys(_FOLLOW_UPS, Rate(10, 3 * _S)),
    }
    if not compat:
        discord |= {"create_guild_ban": _BAN, "remove_guild_member": _KICK}
    unlimited = {"antiraid_bulk_op", "antiraid_bulk_op_wait", "create_interaction_response"}
    return {
        "discord": PluginRates(Rate(20, 5 * _S), discord, frozenset({*unlimited, *_FOLLOW_UPS})),
        "kv": PluginRates(Rate(500, 100 * _MS)),
        "globalkv": PluginRates(Rate(30, _S)),
        "objectstorage": PluginRates(Rate(75, _S)),
        "http": PluginRates(Rate(3, 5 * _S)),
        # Secrets are read with each event that needs one.
        "runtime": PluginRates(Rate(10, _S), {"get_secret": Rate(50, _S)}, frozenset({"get_secret"})),
    }


class Meter:
    """One rate as arithmetic on the time at which a bucket is full again. It keeps nothing: times are its callers'.

    Times are in ``1 / scale`` ns, so that the share of one call is a whole number.
    """

    __slots__ = ("_ahead_max", "_scale", "_step")

    def __init__(self, rate: Rate, *, compat: bool) -> None:
        self._scale = 1 if compat else rate.calls
        self._step = rate.period_ns
        self._ahead_max = (rate.calls - 1) * rate.period_ns

    def take(self, full_at: int, now_ns: int) -> tuple[int, int]:
        """The time after one more call, and 0; or *full_at*, and the nanoseconds until one is allowed."""
        now = now_ns * self._scale
        wait = full_at - now - self._ahead_max
        if wait > 0:
            return full_at, -(-wait // self._scale)
        return max(full_at, now) + self._step, 0


class _Meters(NamedTuple):
    overall: Meter
    buckets: dict[str, Meter]
    exempt: frozenset[str]


class RateLimits:
    """Counts the host calls of all tenants of a worker.

    At most `RATE_TENANTS_MAX` tenants are remembered; the one that has called least recently is forgotten, and with it
    what it has used.
    """

    def __init__(self, *, compat: bool = False, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self._plugins = {
            plugin: _Meters(
                Meter(rates.overall, compat=compat),
                {bucket: Meter(rate, compat=compat) for bucket, rate in rates.buckets.items()},
                rates.exempt,
            )
            for plugin, rates in plugin_rates(compat=compat).items()
        }
        #: tenant -> meter -> when its bucket is full again.
        self._tenants: OrderedDict[int, dict[Meter, int]] = OrderedDict()

    def spend(self, tenant: int, plugin: str, bucket: str) -> None:
        """Count a call. What is refused in its own bucket was counted overall before.

        Raises: LimitExceeded: too many; its text says how long to wait.
        """
        meters = self._plugins[plugin]
        used = self._used(tenant)
        now_ns = self._clock_ns()
        if bucket not in meters.exempt:
            self._take(used, meters.overall, now_ns, "Global ratelimit hit for bucket", bucket)
        if (own := meters.buckets.get(bucket)) is not None:
            self._take(used, own, now_ns, "Per bucket ratelimit hit for", bucket)

    def _used(self, tenant: int) -> dict[Meter, int]:
        used = self._tenants.get(tenant)
        if used is not None:
            self._tenants.move_to_end(tenant)
            return used
        if len(self._tenants) >= RATE_TENANTS_MAX:
            self._tenants.popitem(last=False)
        used = self._tenants[tenant] = {}
        return used

    @staticmethod
    def _take(used: dict[Meter, int], meter: Meter, now_ns: int, refusal: str, bucket: str) -> None:
        used[meter], wait_ns = meter.take(used.get(meter, 0), now_ns)
        if wait_ns:
            raise LimitExceeded(f"{refusal} '{bucket}', wait time: {duration(wait_ns)}", limit="calls")

    def __len__(self) -> int:
        return len(self._tenants)


def duration(nanoseconds: int) -> str:
    """A span of time as the reference writes it: ``1.5s``, ``500ms``, ``20µs``, ``7ns``; no digit is lost."""
    for unit, size in (("s", _S), ("ms", _MS), ("µs", 1_000)):
        if nanoseconds >= size:
            whole, rest = divmod(nanoseconds, size)
            digits = f"{rest:0{len(str(size)) - 1}}".rstrip("0")
            return f"{whole}.{digits}{unit}" if digits else f"{whole}{unit}"
    return f"{nanoseconds}ns"
