"""The compiled framing and its twin in Python share every case."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytw.errors import ProtocolError
from pytw.limits import FRAME_BYTES_MAX, RECORD_BYTES_MAX
from pytw.mesophyll import _framing
from tests.mesophyll import framing_oracle

#: The twins inherit the cases: two classes, on purpose, run each.
shared = settings(deadline=None, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow])

U64 = st.integers(0, 2**64 - 1)
RECORDS = st.lists(st.tuples(st.integers(0, 255), U64, U64, st.binary(max_size=64)), min_size=1, max_size=8)


class Cases:
    framing: ClassVar[Any]

    @shared
    @given(RECORDS)
    def test_split_undoes_join(self, records: list[tuple[int, int, int, bytes]]) -> None:
        assert self.framing.split(self.framing.join(records)) == records

    @shared
    @given(RECORDS)
    def test_any_msgpack_library_reads_a_frame(self, records: list[tuple[int, int, int, bytes]]) -> None:
        unpacker = msgpack.Unpacker()
        unpacker.feed(self.framing.join(records))
        assert [tuple(record) for record in unpacker] == records

    def test_layout(self) -> None:
        frame = self.framing.join([(6, 0x0102030405060708, 1 << 63, b"abc")])
        assert frame.hex() == "94cc06cf0102030405060708cf8000000000000000c600000003616263"

    @shared
    @given(RECORDS, st.data())
    def test_a_frame_cut_inside_a_record_is_refused(self, records: list[Any], data: st.DataObject) -> None:
        frame = self.framing.join(records)
        last = 26 + len(records[-1][3])
        with pytest.raises(ProtocolError):
            self.framing.split(frame[: len(frame) - data.draw(st.integers(1, last - 1))])

    @shared
    @given(RECORDS, st.integers(1, 25))
    def test_trailing_bytes_are_refused(self, records: list[Any], size: int) -> None:
        with pytest.raises(ProtocolError):
            self.framing.split(self.framing.join(records) + b"\x94" * size)

    @shared
    @given(st.binary(max_size=120))
    def test_random_bytes_are_refused_or_are_records(self, data: bytes) -> None:
        for frame in (data, b"\x94\xcc\x06\xcf" + data, self.framing.join([(1, 1, 1, b"")]) + data):
            try:
                records = self.framing.split(frame)
            except ProtocolError:
                continue
            assert self.framing.join(records) == frame

    @shared
    @given(RECORDS, st.data())
    def test_one_changed_header_byte_never_reads_past_the_frame(self, records: list[Any], data: st.DataObject) -> None:
        frame = bytearray(self.framing.join(records))
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
        try:
            assert self.framing.join(self.framing.split(bytes(frame))) == frame
        except ProtocolError:
            pass

    def test_an_empty_frame_is_refused(self) -> None:
        with pytest.raises(ProtocolError):
            self.framing.split(b"")

    def test_record_limit(self) -> None:
        body = bytes(RECORD_BYTES_MAX)
        frame = self.framing.join([(1, 2, 3, body)])
        assert self.framing.split(frame) == [(1, 2, 3, body)]
        with pytest.raises(ProtocolError):
            self.framing.join([(1, 2, 3, body + b"x")])
        header = frame[:22] + (RECORD_BYTES_MAX + 1).to_bytes(4, "big")
        with pytest.raises(ProtocolError):
            self.framing.split(header + body + b"x")

    def test_a_huge_declared_size_is_refused_before_anything_is_copied(self) -> None:
        header = self.framing.join([(1, 2, 3, b"")])[:22]
        with pytest.raises(ProtocolError):
            self.framing.split(header + b"\xff\xff\xff\xff")

    def test_frame_limit(self) -> None:
        body = bytes(RECORD_BYTES_MAX - 26)
        frame = self.framing.join([(1, 2, 3, body)] * 2)
        assert len(frame) == FRAME_BYTES_MAX
        assert len(self.framing.split(frame)) == 2
        with pytest.raises(ProtocolError):
            self.framing.join([(1, 2, 3, body), (1, 2, 3, body), (1, 2, 3, b"")])
        with pytest.raises(ProtocolError):
            self.framing.split(frame + self.framing.join([(1, 2, 3, b"")]))

    @pytest.mark.parametrize(
        "record",
        [
            *[(256, 0, 0, b""), (-1, 0, 0, b""), (1, -1, 0, b""), (1, 2**64, 0, b""), (1, 0, 2**64, b"")],
            *[(1, 0, -1, b""), ("1", 0, 0, b""), (1, None, 0, b""), (1, 0, 0), (1, 0, 0, b"", 0)],
            *[(1, 0, 0, bytearray()), (1, 0, 0, "x")],
        ],
    )
    def test_a_record_that_does_not_fit_is_refused(self, record: Any) -> None:
        with pytest.raises(ProtocolError):
            self.framing.join([record])


class TestPython(Cases):
    framing: ClassVar[ModuleType] = framing_oracle


class TestCython(Cases):
    framing: ClassVar[ModuleType] = _framing


@given(st.binary(max_size=200))
def test_twins_agree_on_any_bytes(data: bytes) -> None:
    for frame in (data, b"\x94\xcc\x06\xcf" + bytes(8) + b"\xcf" + bytes(8) + b"\xc6\x00\x00\x00" + data):
        results = []
        for framing in (framing_oracle, _framing):
            try:
                results.append(framing.split(frame))
            except ProtocolError:
                results.append("refused")
        assert results[0] == results[1]
