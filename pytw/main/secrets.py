"""The key of templates' secrets: the configuration's, else a file of the data folder, made when first needed."""

from __future__ import annotations

from pathlib import Path

from pytw.config import Config
from pytw.storage.keyfiles import read_key_file
from pytw.storage.secretbox import SecretBox, decoded_key

KEY_FILE = "secrets.key"


def open_secrets(config: Config, data_dir: Path) -> SecretBox:
    """Raises: ConfigError: a key that is none. StorageRefused: the file cannot be kept."""
    old = [decoded_key(text, name="secrets.old_keys") for text in config.secrets.old_keys]
    if config.secrets.key:
        key = decoded_key(config.secrets.key, name="secrets.key")
        file = data_dir / KEY_FILE
        # What was encrypted before the configuration had a key stays readable.
        if file.exists():
            old.append(_file(file))
        return SecretBox(key, old)
    return SecretBox(_file(data_dir / KEY_FILE), old)


def _file(path: Path) -> bytes:
    return read_key_file(path, of="secrets", hint="put back the file that was there: secrets in the database need it")


__all__ = ["open_secrets"]
