"""zlib-stream with literal messages."""

from __future__ import annotations

import zlib

import pytest

from pytw.errors import ProtocolError
from pytw.gateway.inflate import Inflater


def packed(*frames: bytes) -> list[bytes]:
    context = zlib.compressobj()
    return [context.compress(frame) + context.flush(zlib.Z_SYNC_FLUSH) for frame in frames]


def test_frames_of_one_connection_share_a_context():
    inflater = Inflater()
    frames = [b'{"op":10}', b'{"op":11}' * 50, b'{"op":10}']
    assert [inflater.feed(data) for data in packed(*frames)] == frames


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 12])
def test_frame_may_come_in_pieces(cut: int):
    inflater = Inflater()
    (data,) = packed(b'{"op":0,"d":"some text that has a length"}')
    assert inflater.feed(data[:-cut]) is None
    assert inflater.feed(data[-cut:]) == b'{"op":0,"d":"some text that has a length"}'


def test_flush_marker_split_in_single_bytes_is_seen():
    inflater = Inflater()
    (data,) = packed(b"text")
    assert [inflater.feed(data[i : i + 1]) for i in range(len(data))][-1] == b"text"


def test_bomb_is_refused_before_it_is_unpacked():
    inflater = Inflater(frame_bytes_max=1_000_000)
    with pytest.raises(ProtocolError):
        inflater.feed(packed(b"0" * 50_000_000)[0])


def test_endless_message_is_refused():
    inflater = Inflater(frame_bytes_max=1_000)
    with pytest.raises(ProtocolError):
        for _ in range(20):
            inflater.feed(b"x" * 100)


def test_what_is_not_zlib_is_refused():
    with pytest.raises(ProtocolError):
        Inflater().feed(b"nonsense\x00\x00\xff\xff")
