"""How many workers and shards there are."""

import pytest

from pytw.main.options import ServeOptions
from pytw.main.topology import Topology


@pytest.mark.parametrize(
    ("options", "recommended", "expected"),
    [
        (ServeOptions(), 3, (0, 3, 3)),
        (ServeOptions(process_workers=4), 1, (0, 4, 4)),
        (ServeOptions(process_workers=4), 9, (0, 4, 12)),
        (ServeOptions(worker_type="threadpool"), 2, (2, 0, 2)),
        (ServeOptions(worker_type="threadpool", thread_workers=3), 4, (3, 0, 6)),
        (ServeOptions(worker_type="hybrid"), 1, (1, 1, 2)),
        (ServeOptions(worker_type="hybrid", thread_workers=1, process_workers=2), 2, (1, 2, 3)),
    ],
)
def test_counts_come_from_the_flags_and_else_from_the_gateway(
    options: ServeOptions, recommended: int, expected: tuple[int, int, int]
) -> None:
    topology = Topology.choose(options, recommended)
    assert (topology.threads, topology.processes, topology.shards) == expected


def test_each_shard_runs_in_exactly_one_worker() -> None:
    topology = Topology(1, 3, 12)
    shards = [s for worker in range(4) for s in topology.shards_of(worker)]
    assert sorted(shards) == list(range(12))
