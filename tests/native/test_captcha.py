"""Pictures of ``ctx.ImageCaptcha``: PNGs of the size that was asked for, on which there is something to see."""

from __future__ import annotations

import struct
import zlib

import pytest

EVERY_FILTER = """{
    { filter = "Noise", prob = 0.1 },
    { filter = "Wave", f = 1.5, amp = 5, d = "horizontal" },
    { filter = "Wave", f = 1, amp = 6, d = "vertical" },
    { filter = "Line", p1 = { 0, 10 }, p2 = { x = 219, y = 100 }, thickness = 2, color = { r = 200, g = 0, b = 0 } },
    { filter = "RandomLine" },
    { filter = "Grid", x_gap = 20, y_gap = 20 },
    { filter = "ColorInvert" },
    { filter = "Cow", min_radius = 5, max_radius = 15, n = 10, allow_duplicates = false,
        geometry = { left = 20, right = 200, top = 10, bottom = 100 } },
    { filter = "Dot", n = 20, min_radius = 1, max_radius = 3 },
}"""


def captcha(driver, config: str) -> tuple[str, bytes]:
    driver.load(
        ("t", f"return function(ctx) local c = ctx.ImageCaptcha.Create({config}) return {{ c.text, c.image }} end")
    )
    text, image = driver.done(driver.event()).value
    return text, image.data


def rows(png: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and the raw rows of a PNG, filters undone."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    data, at, width, height = b"", 8, 0, 0
    while at < len(png):
        (size,) = struct.unpack_from(">I", png, at)
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + body) == struct.unpack_from(">I", png, at + 8 + size)[0]
        if kind == b"IHDR":
            width, height, depth, color, *_ = struct.unpack(">IIBBBBB", body)
            assert (depth, color) == (8, 2), "8 bits of red, green and blue"
        elif kind == b"IDAT":
            data += body
        at += 12 + size
    raw = zlib.decompress(data)
    stride = width * 3
    assert len(raw) == (stride + 1) * height
    out: list[bytes] = []
    before = bytes(stride)
    for y in range(height):
        line = bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        kind_of_row = raw[y * (stride + 1)]
        for x in range(stride):
            left, up, corner = (line[x - 3] if x > 2 else 0), before[x], (before[x - 3] if x > 2 else 0)
            line[x] = (line[x] + (0, left, up, (left + up) // 2, paeth(left, up, corner))[kind_of_row]) & 255
        before = bytes(line)
        out.append(before)
    return width, height, out


def paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda v: abs(guess - v))


@pytest.fixture
def driver(make):
    return make(cpu_bucket_ms=5_000)


def test_a_plain_captcha_is_dark_characters_on_white(driver):
    text, png = captcha(driver, "{ char_count = 5, filters = {}, viewbox_size = { 220, 110 } }")
    width, height, all_rows = rows(png)
    assert (width, height, len(text)) == (220, 110, 5)
    dark = sum(row[x] < 150 for row in all_rows for x in range(0, len(row), 3))
    assert 0.03 < dark / (width * height) < 0.4
    assert all(row[:9] == b"\xff" * 9 for row in all_rows), "nothing touches the edge"


def test_every_filter_leaves_a_picture_of_the_size(driver):
    text, png = captcha(
        driver, f"{{ char_count = 6, filters = {EVERY_FILTER}, viewbox_size = {{ 220, 110 }}, set_viewbox_at_idx = 4 }}"
    )
    assert rows(png)[:2] == (220, 110)
    assert len(text) == 6


def test_two_captchas_differ(driver):
    config = "{ char_count = 8, filters = {}, viewbox_size = { w = 100, h = 50 } }"
    assert len({captcha(driver, config)[0] for _ in range(4)}) == 4


def test_the_picture_is_not_larger_than_its_pixels(driver):
    noise = '{ { filter = "Noise", prob = 1 } }'
    _, png = captcha(driver, f"{{ char_count = 10, filters = {noise}, viewbox_size = {{ 511, 511 }} }}")
    assert len(png) < 511 * 511 * 3 * 1.01 + 10_000
