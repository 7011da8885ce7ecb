"""What ``@antiraid/datamgmt`` writes is read by Python's own modules, and the other way round."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib

import msgpack
import pytest

ON = 'local datamgmt = require("@antiraid/datamgmt") '
FILES = {"a.txt": b"alpha", "dir/b.bin": bytes(range(256)) * 3, "long/" * 60 + "c": b"", "\u00e9": b"x"}


def ask(driver, source: str, *given: bytes):
    """What a handler makes of buffers that the host gives it."""
    driver.load(("t", f"{ON} return function() {source} end"))
    driver.reply = lambda number, name, args: driver.engine.answer(
        number, msgpack.packb([msgpack.ExtType(2, data) for data in given])
    )
    done = driver.done(driver.event())
    assert not done.error, done.error
    return done.value.data if isinstance(done.value, msgpack.ExtType) else done.value


def archive(kind: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        folder = tarfile.TarInfo("dir")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_python_are_read(driver, kind):
    source = """
    local tar, out = datamgmt.TarArchive(host("give")), {}
    for _, name in tar:entries() do out[name] = tar:takefile(name):tobuffer() end
    return out"""
    found = ask(driver, source, archive(kind))
    assert {name: content.data for name, content in found.items()} == FILES


def test_archives_have_gnu_headers_that_python_reads(driver):
    source = """
    local tar = datamgmt.TarArchive()
    local a, b = host("give")
    tar:addfile("a.txt", a)
    tar:addfile(string.rep("long/", 60) .. "c", datamgmt.newblob(b))
    return tar:toblob()"""
    written = ask(driver, source, b"alpha", bytes(1000))
    assert written[257:265] == b"ustar  \0"
    with tarfile.open(fileobj=io.BytesIO(written)) as tar:
        assert {info.name: tar.extractfile(info).read() for info in tar} == {
            "a.txt": b"alpha",
            "long/" * 60 + "c": bytes(1000),
        }


TEXT = b"the same again, " * 500


@pytest.mark.parametrize(
    ("kind", "pack", "unpack"),
    [("gzip", gzip.compress, gzip.decompress), ("zlib", zlib.compress, zlib.decompress)],
)
def test_compressed_data_is_that_of_python(driver, kind, pack, unpack):
    assert unpack(ask(driver, f'return datamgmt.compress("{kind}", (host("give")))', TEXT)) == TEXT
    assert ask(driver, f'return datamgmt.decompress("{kind}", (host("give")))', pack(TEXT)) == TEXT


def test_without_a_level_the_best_one_is_taken(driver):
    source = 'local text = host("give") return {#datamgmt.compress(KIND, text), #datamgmt.compress(KIND, text, BEST)}'
    noise = zlib.compress(bytes(range(256)) * 40) * 20
    for kind, best in (("gzip", 9), ("zlib", 9), ("brotli", 11)):
        default, most = ask(driver, source.replace("KIND", f'"{kind}"').replace("BEST", str(best)), TEXT + noise)
        assert default == most


def test_brotli_of_another_implementation_is_read(driver):
    """The reference encoder's output for "known text" repeated 3 times, quality 11."""
    assert (
        ask(
            driver,
            'return datamgmt.decompress("brotli", (host("give")))',
            bytes.fromhex("1b1d00f81d09364e766dfe192ad7eef01ac4ed8d4e95b9c550a1005ab207"),
        )
        == b"known text" * 3
    )
