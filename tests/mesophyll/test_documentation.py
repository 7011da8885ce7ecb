"""docs/mesophyll.md says what records.py says."""

from __future__ import annotations

import re
from pathlib import Path

from pytw import limits
from pytw.mesophyll import records
from pytw.mesophyll._framing import HEADER_BYTES
from pytw.mesophyll.records import Kind
from pytw.workerdb import OPERATIONS

TEXT = (Path(__file__).parents[2] / "docs" / "mesophyll.md").read_text("utf-8")


def test_the_table_lists_every_kind_with_its_number_and_direction() -> None:
    source = Path(records.__file__).read_text("utf-8")
    said = dict(re.findall(r"^    ([A-Z_]+) = \d+  # (W>M|M>W|both)\b", source, re.MULTILINE))
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| (W>M|M>W|both) \|", TEXT, re.MULTILINE)
    assert [(int(number), name) for number, name, _ in rows] == [(int(kind), kind.name) for kind in Kind]
    assert {name: direction for _, name, direction in rows} == said


def test_the_table_of_operations_is_the_protocol() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*)\| [^|]+ \|$", TEXT, re.MULTILINE)
    said = {name: re.findall(r"`(\w+)`", arguments) for name, arguments in rows}
    assert said == {name: list(operation.parameters) for name, operation in OPERATIONS.items()}
    assert list(said) == list(OPERATIONS)


def test_the_layout_and_the_bounds_are_those_of_the_code() -> None:
    assert f"| {HEADER_BYTES} | | body |" in TEXT
    for words in (
        f"at most {limits.RECORD_BYTES_MAX >> 20} MiB, a frame {limits.FRAME_BYTES_MAX >> 20} MiB",
        f"At most {limits.REQUESTS_PENDING_MAX:,} requests",
        f"more than {limits.LINK_BUFFER_BYTES_MAX >> 20} MiB unread",
        f"HEARTBEAT every {limits.HEARTBEAT_MS} ms",
        f"over tenants, at most {limits.DB_OPERATIONS_TOTAL_MAX} at a time",
        f"within {limits.HELLO_S:g} s",
    ):
        assert words in " ".join(TEXT.split()), words
