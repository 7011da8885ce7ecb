"""Small readers of checked values: addresses, the control socket, URLs fit to be shown."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from pytw.errors import ConfigError

#: What a UNIX socket's name may hold.
SOCKET_PATH_BYTES_MAX = 107
_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain"})
_PASSWORD_PARAMETER = re.compile(r"([?&](?:ssl)?password=)[^&#]*", re.IGNORECASE)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of a checked HOST:PORT; brackets of an IPv6 host go."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def control_socket(data_dir: str) -> str:
    """Where a server with *data_dir* takes the command line's calls."""
    path = str(Path(data_dir).expanduser().absolute() / "control.sock")
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(f"data_dir: {path} is longer than a socket's path may be ({SOCKET_PATH_BYTES_MAX} bytes)")
    return path


def without_password(url: str) -> str:
    """*url* fit to be shown: passwords are hidden before the host and among the parameters."""
    url = _PASSWORD_PARAMETER.sub(r"\1(hidden)", url)
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":(hidden)@", 1) if parts.password else url


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address means this machine."""
    if not host:
        return False
    if host.lower() in _LOOPBACK_NAMES or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
