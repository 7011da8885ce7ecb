from __future__ import annotations

from pathlib import Path

import pytest

from pytw.config import Config
from pytw.config.sections import ObjectStorage, Sites
from pytw.errors import ConfigError, NotFound
from pytw.main.objects import open_blobs, open_reference
from pytw.storage.objectblobs import Blobs
from pytw.storage.objectkeys import blob_path
from pytw.types import Id, OwnerType

OWNER = Id.guild(5)


PATH = blob_path(OWNER, "k")


async def url(blobs: Blobs, expires_s: int = 60) -> str:
    return await blobs.url(OWNER, "k", PATH, expires_s)


async def test_files_lie_in_the_data_folder_and_urls_lead_to_the_api(tmp_path: Path) -> None:
    blobs = open_blobs(Config(), tmp_path, "http://127.0.0.1:60000")
    await blobs.put(PATH, b"1", key="k")
    assert (tmp_path / "objects" / PATH).read_bytes() == b"1"
    assert (await url(blobs)).startswith("http://127.0.0.1:60000/objects/guilds/5/k?")
    # Another start has the same key.
    expires, _, signature = (await url(blobs, 3600)).partition("expires=")[2].partition("&signature=")
    open_blobs(Config(), tmp_path, "").check_link(OWNER, "k", expires=expires, signature=signature)


async def test_folder_and_public_address_are_the_operators(tmp_path: Path) -> None:
    settings = ObjectStorage(base_path=str(tmp_path / "elsewhere"))
    config = Config(object_storage=settings, sites=Sites(api="https://api.example"))
    blobs = open_blobs(config, tmp_path, "http://127.0.0.1:60000")
    await blobs.put(PATH, b"1", key="k")
    assert (tmp_path / "elsewhere" / PATH).exists()
    assert (await url(blobs)).startswith("https://api.example/objects/")


@pytest.mark.parametrize(
    ("base_path", "start"), [("", "antiraid/"), ("bots", "bots/"), ("/bots/of/mine/", "bots/of/mine/")]
)
@pytest.mark.parametrize(
    ("cdn_endpoint", "secure", "address"),
    [
        ("cdn.example", True, "https://cdn.example"),
        ("cdn.example:8443", False, "http://cdn.example:8443"),
        ("$DOCKER:cdn.example", True, "https://cdn.example"),
        ("$DOCKER:localhost:5601", False, "http://localhost:5601"),
        ("", True, "http://inner:9000"),
    ],
)
async def test_bucket_has_the_path_of_the_configuration(
    tmp_path: Path, base_path: str, start: str, cdn_endpoint: str, secure: bool, address: str
) -> None:
    settings = ObjectStorage(
        type="s3-like",
        base_path=base_path,
        endpoint="inner:9000",
        cdn_endpoint=cdn_endpoint,
        cdn_secure=secure,
        access_key="a",
        secret_key="b",
    )
    blobs = open_blobs(Config(object_storage=settings), tmp_path, "")
    assert (await url(blobs)).startswith(f"{address}/{start}{PATH}?X-Amz-")
    assert not (tmp_path / "objects.key").exists()


def test_a_bucket_needs_its_address_and_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"object_storage.endpoint is not set"):
        open_blobs(Config(object_storage=ObjectStorage(type="s3-like")), tmp_path, "")


async def test_the_reference_kept_each_kind_of_tenant_in_a_bucket(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no folder .*objects/antiraid\.guilds"):
        open_reference(Config(), tmp_path, OwnerType.GUILD)
    (tmp_path / "objects/antiraid.users/5/d").mkdir(parents=True)
    (tmp_path / "objects/antiraid.users/5/d/k").write_bytes(b"1")
    found = open_reference(Config(), tmp_path, OwnerType.USER)
    assert [key async for key in found.under("5")] == ["d/k"]
    settings = ObjectStorage(type="s3-like", base_path="ours/x", endpoint="inner:9000", access_key="a", secret_key="b")
    bucket = open_reference(Config(object_storage=settings), tmp_path, OwnerType.GUILD)
    assert (await bucket.url(OWNER, "k", "5/k", 60)).startswith("http://inner:9000/antiraid.guilds/5/k?")
