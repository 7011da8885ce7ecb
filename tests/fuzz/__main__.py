"""Runs every fuzzer for its share of the time, from fresh seeds: ``python -m tests.fuzz SECONDS`` (``make fuzz``).

One line per fuzzer at the end; exit code 1 if one of them found something, which is then in tests/fuzz/findings.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

from .conftest import FINDINGS

ROOT = Path(__file__).parents[2]
FUZZERS = {
    "deafness": "test_deafness.py::test_no_native_function_keeps_the_thread_deaf",
    "sandbox": "test_sandbox.py::test_random_programs_hurt_nobody",
    "allocations": "test_sandbox.py::test_allocations_that_fail_one_after_the_other_end_nothing",
    "scheduler": "test_scheduler.py",
    "values": "test_values.py::test_what_crosses_comes_back_equal_or_is_refused",
    "json": "test_values.py::test_json_means_what_pythons_json_says",
}
#: The heaviest finders get more of the time.
SHARES = {"deafness": 3, "sandbox": 3, "allocations": 2}


def run(name: str, seconds: float) -> str:
    """The fuzzer's own line, or what is wrong."""
    number = random.SystemRandom().getrandbits(32)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTW_FUZZ_SECONDS": f"{seconds:.0f}",
        "PYTW_FUZZ_SEED": str(number),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", f"tests/fuzz/{FUZZERS[name]}"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds * 4 + 240, check=False
        )
        code, text = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as e:
        code, text = -1, f"it did not end\n{e.stdout or ''}"
    lines = re.findall(r"^fuzz (.*)$", text, re.M)
    if code == 0:
        return "clean   " + "; ".join(lines)
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / f"{name}-{number}.log"
    path.write_text(text)
    return f"FINDING {name}: seed {number}, {path.relative_to(ROOT)}"


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1_800
    # Two fuzzers share the JSON's time: both of its events are run.
    parts = sum(SHARES.get(name, 1) for name in FUZZERS) + 1
    results = []
    for name in FUZZERS:
        results.append(run(name, max(1.0, seconds * SHARES.get(name, 1) / parts)))
        print(results[-1], flush=True)  # noqa: T201
    return int(any(result.startswith("FINDING") for result in results))


if __name__ == "__main__":
    sys.exit(main())
