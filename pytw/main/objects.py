"""Opens the place of objects that the configuration names: a folder of this machine, or an S3 bucket."""

from __future__ import annotations

from pathlib import Path

from pytw.config import Config
from pytw.config.sections import ObjectStorage
from pytw.errors import ConfigError, NotFound
from pytw.storage.objectblobs import Blobs, LocalBlobs, S3Blobs
from pytw.storage.objectlinks import ObjectLinks, read_key
from pytw.types import OwnerType

FOLDER = "objects"
KEY_FILE = "objects.key"
BUCKET = "antiraid"
REGION = "us-east-1"
#: Before a ``cdn_endpoint``, in configurations of the reference: a container's public address. It is signed for like any.
DOCKER = "$DOCKER:"


def open_blobs(config: Config, data_dir: Path, address: str) -> Blobs:
    """
    Args:
        address: where this server's API listens; URLs of objects on disk lead there unless ``sites.api`` says otherwise.
    Raises:
        StorageRefused: the folder or the key of URLs cannot be written. ConfigError.
    """
    settings = config.object_storage
    if settings.type == "local":
        folder = Path(settings.base_path).expanduser() if settings.base_path else data_dir / FOLDER
        return LocalBlobs(folder, ObjectLinks(read_key(data_dir / KEY_FILE), config.sites.api or address))
    for key, value in (
        ("endpoint", settings.endpoint),
        ("access_key", settings.access_key),
        ("secret_key", settings.secret_key),
    ):
        if not value:
            raise ConfigError(f"object_storage.{key} is not set", hint="object_storage.type s3-like needs it")
    bucket, _, prefix = (settings.base_path.strip("/") or BUCKET).partition("/")
    public = settings.cdn_endpoint.removeprefix(DOCKER)
    if public:
        public = _url(public, secure=settings.cdn_secure)
    return S3Blobs(bucket, _options(settings), prefix=prefix, public_endpoint=public)


def open_reference(config: Config, data_dir: Path, kind: OwnerType) -> Blobs:
    """Where the reference kept a kind of tenants' objects: a bucket of its own beside ours. Raises: NotFound, ConfigError."""
    settings = config.object_storage
    bucket = f"{BUCKET}.{kind.value}s"
    if settings.type != "local":
        return S3Blobs(bucket, _options(settings))
    folder = (Path(settings.base_path).expanduser() if settings.base_path else data_dir / FOLDER) / bucket
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", hint="it is where the reference keeps these objects on disk")
    return LocalBlobs(folder)


def _options(settings: ObjectStorage) -> dict[str, str]:
    return {
        "endpoint": _url(settings.endpoint, secure=settings.secure),
        "access_key_id": settings.access_key,
        "secret_access_key": settings.secret_key,
        "region": REGION,
    }


def _url(address: str, *, secure: bool) -> str:
    return address if "://" in address else f"{'https' if secure else 'http'}://{address}"


__all__ = ["open_blobs", "open_reference"]
