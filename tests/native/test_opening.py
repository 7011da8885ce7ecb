"""The first event of a VM alone (`opening_ms`), so that what it makes for the others is made once."""

from __future__ import annotations

from collections.abc import Callable

from pytw.types import Outcome

from .conftest import Driver

Make = Callable[..., Driver]

#: A loop that is not careful: whoever finds no manager makes one, and that waits.
MANAGER = """return function(ctx)
    if not ctx.store.manager then
        made = (made or 0) + 1
        local number = made
        task.wait(0.1)
        ctx.store.manager = number
    end
    return { made, ctx.store.manager, ctx:event().name }
end"""
SLOW = """return function(ctx)
    if ctx:event().name == "slow" then task.wait(30) end
    return os.clock()
end"""


def test_what_the_first_event_makes_is_made_once_and_events_keep_their_order(make: Make) -> None:
    driver = make(opening_ms=5_000)
    driver.load(("loop", MANAGER))
    numbers = [driver.event(name=name) for name in "abcd"]
    assert [driver.done(number).value for number in numbers] == [[1, 1, name] for name in "abcd"]


def test_without_it_all_start_at_once(make: Make) -> None:
    driver = make()
    driver.load(("loop", MANAGER))
    numbers = [driver.event(name=name) for name in "abcd"]
    assert {driver.done(number).value[0] for number in numbers} == {4}


def test_only_the_first_event_runs_alone(make: Make) -> None:
    driver = make(opening_ms=60_000)
    driver.load(("loop", SLOW))
    assert driver.done(driver.event(name="first")).outcome is Outcome.OK
    slow = driver.event(name="slow")
    assert driver.done(driver.event(name="second")).outcome is Outcome.OK
    assert slow not in driver.answers


def test_a_first_event_that_does_not_end_is_waited_for_so_long_only(make: Make) -> None:
    driver = make(opening_ms=200)
    driver.load(("loop", SLOW))
    driver.event(name="slow")
    done = driver.done(driver.event(name="second"))
    assert done.outcome is Outcome.OK and done.wall_us >= 150_000


def test_an_event_that_comes_while_the_first_one_waits_is_let_in_in_time(make: Make) -> None:
    driver = make(opening_ms=200)
    driver.load(("loop", SLOW))
    driver.event(name="slow")
    driver.until(lambda: driver.engine.stats()["slices"] > 0)
    done = driver.done(driver.event(name="second"))
    assert done.outcome is Outcome.OK and done.wall_us < 10_000_000


def test_however_the_first_event_ends_the_others_go_on(make: Make) -> None:
    driver = make(opening_ms=60_000)
    driver.load(("loop", SLOW))
    for tenant, end in ((1, driver.engine.cancel), (2, lambda number: None)):
        driver.load(("loop", SLOW), tenant=tenant)
        first = driver.event(name="slow", tenant=tenant, timeout_ms=300)
        second = driver.event(name="second", tenant=tenant)
        end(first)
        assert driver.done(second).outcome is Outcome.OK
        assert driver.done(first).outcome in (Outcome.CANCELLED, Outcome.TIMEOUT)


def test_an_error_of_the_first_event_is_its_own(make: Make) -> None:
    driver = make(opening_ms=60_000)
    driver.load(("loop", "return function(ctx) task.wait() if ctx:event().name == 'bad' then error('no') end end"))
    first, second = driver.event(name="bad"), driver.event(name="good")
    assert driver.done(first).outcome is Outcome.SCRIPT_ERROR
    assert driver.done(second).outcome is Outcome.OK


def test_who_waits_for_the_first_event_can_be_cancelled_and_has_a_deadline(make: Make) -> None:
    driver = make(opening_ms=60_000)
    driver.load(("loop", SLOW))
    driver.event(name="slow")
    late, cancelled = driver.event(name="late", timeout_ms=100), driver.event(name="cancelled")
    driver.engine.cancel(cancelled)
    assert driver.done(cancelled).outcome is Outcome.CANCELLED
    assert driver.done(late).outcome is Outcome.TIMEOUT


def test_other_tenants_and_scripts_wait_for_nobody(make: Make) -> None:
    driver = make(opening_ms=60_000)
    for tenant in (1, 2):
        driver.load(("loop", SLOW), tenant=tenant)
    driver.event(name="slow")
    assert driver.done(driver.event(name="other", tenant=2)).outcome is Outcome.OK
    assert driver.ok("return 1", tenant=3) == 1
    assert driver.done(driver.event(name="after", tenant=3)).outcome is Outcome.NOT_SUBSCRIBED


def test_each_vm_has_a_first_event(make: Make) -> None:
    """Also the one that takes the place of another, and one that a script came to first."""
    driver = make(opening_ms=5_000)
    for _ in range(2):
        driver.load(("loop", MANAGER))
        assert driver.ok("return 1") == 1
        numbers = [driver.event(name=name) for name in "ab"]
        assert [driver.done(number).value[0] for number in numbers] == [1, 1]
        driver.wait(driver.drop())
