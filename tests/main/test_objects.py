from __future__ import annotations

from pathlib import Path

import pytest

from pytw.config import Config
from pytw.config.sections import ObjectStorage, Sites
from pytw.errors import ConfigError
from pytw.main.objects import open_objects
from pytw.types import Id

OWNER = Id.guild(5)


async def test_files_lie_in_the_data_folder_and_urls_lead_to_the_api(tmp_path: Path) -> None:
    objects = open_objects(Config(), tmp_path, "http://127.0.0.1:60000")
    await objects.put(OWNER, "k", b"1")
    assert (tmp_path / "objects/guilds/5/k").read_bytes() == b"1"
    assert (await objects.url(OWNER, "k", 60)).startswith("http://127.0.0.1:60000/objects/guilds/5/k?")
    # Another start has the same key.
    signature = (await objects.url(OWNER, "k", 3600)).partition("expires=")[2]
    expires, _, signature = signature.partition("&signature=")
    again = open_objects(Config(), tmp_path, "")
    assert await again.open_link(OWNER, "k", expires=expires, signature=signature) == b"1"


async def test_folder_and_public_address_are_the_operators(tmp_path: Path) -> None:
    settings = ObjectStorage(base_path=str(tmp_path / "elsewhere"))
    config = Config(object_storage=settings, sites=Sites(api="https://api.example"))
    objects = open_objects(config, tmp_path, "http://127.0.0.1:60000")
    await objects.put(OWNER, "k", b"1")
    assert (tmp_path / "elsewhere/guilds/5/k").exists()
    assert (await objects.url(OWNER, "k", 60)).startswith("https://api.example/objects/")


@pytest.mark.parametrize(
    ("base_path", "start"), [("", "antiraid/"), ("bots", "bots/"), ("/bots/of/mine/", "bots/of/mine/")]
)
async def test_bucket_has_the_path_of_the_configuration(tmp_path: Path, base_path: str, start: str) -> None:
    settings = ObjectStorage(
        type="s3-like",
        base_path=base_path,
        endpoint="inner:9000",
        cdn_endpoint="cdn.example",
        cdn_secure=True,
        access_key="a",
        secret_key="b",
    )
    objects = open_objects(Config(object_storage=settings), tmp_path, "")
    assert (await objects.url(OWNER, "k", 60)).startswith(f"https://cdn.example/{start}guilds/5/k?X-Amz-")
    assert not (tmp_path / "objects.key").exists()


def test_a_bucket_needs_its_address_and_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"object_storage.endpoint is not set"):
        open_objects(Config(object_storage=ObjectStorage(type="s3-like")), tmp_path, "")
