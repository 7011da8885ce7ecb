"""P5: the scheduler against a model of what runs when, for random programs of threads."""

from __future__ import annotations

import random
from typing import Any

from .conftest import Budget, Driver, keep

Op = tuple[Any, ...]


class Thread:
    def __init__(self, number: int, body: list[Op]) -> None:
        self.number, self.body, self.at = number, body, 0
        self.state, self.wait = "new", 0
        #: Known to the scheduler, and cancelled since: no wait of it ends any more.
        self.scheduled = self.cancelled = False


class Model:
    """Runs bodies of operations as the task library is documented to, in virtual time."""

    def __init__(self) -> None:
        self.log: list[tuple[float, str]] = []
        self.threads: dict[int, Thread] = {}
        self.ready: list[tuple[Thread, int]] = []
        self.timers: list[tuple[float, int, Thread]] = []
        self.now, self.waits = 0.0, 0

    def hold(self, thread: Thread) -> int:
        self.waits += 1
        thread.scheduled = True
        thread.wait = 0 if thread.cancelled else self.waits
        return self.waits

    def resume(self, thread: Thread) -> bool:
        """Whether it could be resumed."""
        if thread.state not in ("new", "asleep"):
            return False
        thread.state, thread.wait = "running", 0
        while thread.at < len(thread.body):
            op, *args = thread.body[thread.at]
            thread.at += 1
            if not getattr(self, op)(thread, *args):
                return True
        thread.state = "dead"
        return True

    def say(self, _: Thread, text: str) -> bool:
        self.log.append((self.now, text))
        return True

    def make(self, number: int, body: list[Op]) -> Thread:
        self.threads[number] = Thread(number, body)
        return self.threads[number]

    def spawn(self, _: Thread, number: int, body: list[Op]) -> bool:
        thread = self.make(number, body)
        thread.scheduled = True
        self.resume(thread)
        return True

    def create(self, _: Thread, number: int, body: list[Op]) -> bool:
        self.make(number, body)
        return True

    def defer(self, _: Thread, number: int, body: list[Op]) -> bool:
        thread = self.make(number, body)
        self.ready.append((thread, self.hold(thread)))
        return True

    def delay(self, _: Thread, after: float, number: int, body: list[Op]) -> bool:
        thread = self.make(number, body)
        self.timers.append((self.now + after, self.hold(thread), thread))
        return True

    def wait(self, thread: Thread, after: float) -> bool:
        thread.state = "asleep"
        self.timers.append((self.now + after, self.hold(thread), thread))
        return False

    def rest(self, thread: Thread) -> bool:
        thread.state = "asleep"
        return False

    def wake(self, _: Thread, number: int) -> bool:
        if number in self.threads:
            self.resume(self.threads[number])
        return True

    def cancel(self, _: Thread, number: int) -> bool:
        if number in self.threads:
            thread = self.threads[number]
            thread.wait, thread.cancelled = 0, thread.cancelled or thread.scheduled
        return True

    def fail(self, thread: Thread) -> bool:
        thread.state = "dead"
        return False

    def run(self, body: list[Op], end: float) -> None:
        self.resume(self.make(0, body))
        while True:
            while self.ready:
                thread, wait = self.ready.pop(0)
                if thread.wait == wait:
                    self.resume(thread)
            self.timers.sort(key=lambda timer: timer[:2])
            if not self.timers or self.timers[0][0] > end:
                return
            self.now, wait, thread = self.timers.pop(0)
            self.ready.append((thread, wait))


class Writer:
    """A random body, and the Luau that does the same."""

    def __init__(self, seed: int) -> None:
        self.r, self.count, self.says = random.Random(seed), 0, 0
        # With timers the order of what is due at nearly the same time is nobody's promise.
        self.timed = seed % 4 == 0

    def body(self, depth: int) -> list[Op]:
        return [self.op(depth) for _ in range(self.r.randint(1, 6))]

    def op(self, depth: int) -> Op:
        r = self.r
        kinds = ["say", "say", "rest", "wake", "cancel", "fail"] + (["spawn", "defer", "create"] * 2 if depth else [])
        if self.timed:
            kinds += ["wait"] * 3 + (["delay"] * 2 if depth else [])
        kind = r.choice(kinds)
        if kind == "say":
            self.says += 1
            return kind, f"s{self.says}"
        if kind in ("spawn", "defer", "create", "delay"):
            self.count += 1
            made = (self.count, self.body(depth - 1))
            return (kind, r.choice([0.05, 0.1, 0.15, 0.2]), *made) if kind == "delay" else (kind, *made)
        if kind == "wait":
            return kind, r.choice([0.05, 0.1, 0.15])
        return (kind, r.randint(1, max(1, self.count))) if kind in ("wake", "cancel") else (kind,)


def luau(body: list[Op]) -> str:
    return " ".join(line(*op) for op in body)


def line(op: str, *args: Any) -> str:
    match op, args:
        case "say", (text,):
            return f"say('{text}')"
        case (("spawn" | "defer" | "create"), (number, body)):
            library = "coroutine" if op == "create" else "task"
            # The thread is known to itself and others from its first instruction on.
            return f"T[{number}] = coroutine.create(function() {luau(body)} end) " + (
                "" if library == "coroutine" else f"task.{op}(T[{number}])"
            )
        case "delay", (after, number, body):
            return f"T[{number}] = coroutine.create(function() {luau(body)} end) task.delay({after}, T[{number}])"
        case "wait", (after,):
            return f"task.wait({after})"
        case "rest", ():
            return "coroutine.yield()"
        case "wake", (number,):
            return f"if T[{number}] then coroutine.resume(T[{number}]) end"
        case "cancel", (number,):
            return f"if T[{number}] then task.cancel(T[{number}]) end"
    return "do error('meant') end"


def unordered(said: list[str], wanted: list[tuple[float, str]]) -> bool:
    """Whether what is at least 30 ms apart in the model came in another order, or something is missing."""
    times = {text: at for at, text in wanted}
    if sorted(said) != sorted(times):
        return True
    seen = [times[text] for text in said]
    return any(earlier > later + 0.03 for i, earlier in enumerate(seen) for later in seen[i + 1 :])


def disagreement(driver: Driver, seed: int) -> str:
    writer = Writer(seed)
    body = [op for op in writer.body(3) if op[0] not in ("rest", "fail", "wait")]
    model = Model()
    model.run(body, 0.9)
    end = "task.wait(1)" if writer.timed else "task.wait(0.05)"
    source = f"local L, T = {{}}, {{}} local function say(s) L[#L + 1] = s end T[0] = coroutine.running() {luau(body)} {end} return #L > 0 and L or ''"
    said = driver.ok(source) or []
    wanted = [text for _, text in model.log]
    if (unordered(said, model.log) if writer.timed else said != wanted) and said != wanted:
        return f"{source}\nsaid   {said}\nwanted {model.log}"
    return ""


def test_threads_run_when_the_model_says() -> None:
    budget, driver = Budget("scheduler", 4), Driver(log_bytes_per_s=0, cpu_bucket_ms=60_000)
    for seed in budget.rounds_of_seeds():
        found = disagreement(driver, seed) and disagreement(driver, seed)
        driver.calls.clear()
        assert not found, keep("scheduler", seed, found) + "\n" + found
        if budget.rounds % 20 == 0:
            driver.wait(driver.drop())
            assert driver.ok("return collectgarbage('count') < 2000") is True
    driver.engine.close()
    budget.summary()
