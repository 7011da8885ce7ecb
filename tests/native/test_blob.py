"""Blobs on their way between scripts and the host."""

from __future__ import annotations

import msgpack
import pytest

ON = 'local datamgmt = require("@antiraid/datamgmt") '


@pytest.fixture
def echo(driver):
    """A host that gives each buffer back as a blob."""

    def reply(number, _name, args):
        assert args[0].code == 2, "a blob leaves as a buffer"
        driver.engine.answer(number, msgpack.packb([msgpack.ExtType(9, args[0].data)]))

    driver.reply = reply
    return driver


def test_a_blob_crosses_both_ways_and_is_left_empty(echo):
    echo.load(
        (
            "t",
            ON + 'return function() local sent = datamgmt.newblob(buffer.fromstring("a\\0b"))'
            ' local back = host("echo", sent) return { #sent, #back, back:tobuffer() } end',
        )
    )
    sent, back, content = echo.done(echo.event()).value
    assert (sent, back, content.data) == (0, 3, b"a\0b")


def test_a_blob_is_a_result_too(echo):
    echo.load(("t", ON + 'return function() return { b = datamgmt.newblob(string.rep("x", 1024)) } end'))
    assert echo.done(echo.event()).value == {"b": msgpack.ExtType(2, b"x" * 1024)}


def test_a_blob_that_is_too_large_does_not_cross(echo):
    echo.load(("t", ON + 'return function() return datamgmt.newblob(string.rep("x", 5 * 2^20)) end'))
    done = echo.done(echo.event())
    assert "limit: size" in done.error
