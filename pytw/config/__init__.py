"""The configuration: `config.yaml`, `TW_` variables and flags, checked key by key, with one table behind all of it."""

from pytw.config.addresses import control_socket, is_loopback, split_address, without_password
from pytw.config.keys import Key, keys
from pytw.config.reading import Reading, load, read
from pytw.config.sections import Config, default_data_dir

__all__ = [
    "Config",
    "Key",
    "Reading",
    "control_socket",
    "default_data_dir",
    "is_loopback",
    "keys",
    "load",
    "read",
    "split_address",
    "without_password",
]
