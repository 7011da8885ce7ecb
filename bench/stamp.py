"""Makes `bench/README.md` from the figures of the last run, stamped with what they were measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from pytw import luau

HERE = Path(__file__).parent

TEXT = """# Benches

`make bench` (or `pytest bench/ --benchmark-only`) measures every figure beside a raw baseline in the same run and
prints both; `make bench-table` also writes this page. Machines differ by a factor of three and a virtual machine wakes
a sleeping core in 15 to 60 us, so ratios are what counts.

- *socketpair*: a blocking 2 KB round trip between two processes pinned to two cores. *eventfd*: a wake-up there and
  back over a pair of eventfds, pinned likewise.
- *orjson.loads*: CPU time of parsing the same 2 KB payload, best of seven rounds with nothing beside it.
- Where a figure needs both cores at once, a machine whose cores are two threads of one physical core gives each about
  60 % of what it has alone; the baselines do not suffer from that.

{stamp}

| what | measured | ratio | documented | our budget | |
|---|---|---|---|---|---|
{rows}
"""


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    figures = json.loads((HERE / "results" / "figures.json").read_text())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True
    )
    stamp = (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip()}, {_cpu()}, {os.cpu_count()} cores, "
        f"Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, uvloop {uvloop.__version__}, Luau {luau.ENGINE_VERSION}."
    )
    verdict = {True: "met", False: "**not met**", None: ""}
    rows = [
        f"| {f['name']} | {f['value']} | {f['ratio']} | {f['documented']} | {f['budget']} | {verdict[f['met']]} |"
        for f in figures
    ]
    sys.stdout.write(TEXT.format(stamp=stamp, rows="\n".join(rows)))


if __name__ == "__main__":
    main()
