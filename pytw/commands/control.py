"""Calls to a running server: over `DATA_DIR/control.sock` as root, or over `--url` with a token.

HTTP by the standard library: a command makes one or two calls, and aiohttp would cost ten times their time to import.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Collection
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import click

from pytw.commands.settings import configured, reading
from pytw.config import control_socket
from pytw.errors import ConfigError, NotRunning, RequestError, Unavailable

F = TypeVar("F", bound=Callable[..., Any])

CALL_TIMEOUT_S = 60.0
ANSWER_BYTES_MAX = 64 << 20
NO_TOKEN = (
    "no command of this version makes tokens: on the server's machine, as the account that runs it, `tw` works without "
    "--url and needs none; --token or TW_TOKEN takes the token of a root user's session"
)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Control:
    """One way to a running server."""

    def __init__(self, *, socket_path: str = "", url: str = "", token: str = "") -> None:
        self._socket_path = socket_path
        self._url = url
        self._token = token

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        also: Collection[int] = (),
    ) -> Any:
        """The answer's JSON, None if it is empty. *also*: statuses that are answers, besides those below 300.

        Raises:
            NotRunning: nobody answers there.
            RequestError: the server refuses; its message.
            Unavailable: the server cannot now, or the answer did not come in time.
        """
        try:
            data = None if body is None else json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise RequestError(f"this cannot be sent as JSON: {error}") from None
        status, found = self._exchange(method, path, data, "application/json", timeout_s)
        return _answer(200 if status in also else status, found)

    def content(self, path: str) -> bytes:
        """What is there, as it is. Raises: as `call`."""
        status, found = self._exchange("GET", path, None, "application/octet-stream", CALL_TIMEOUT_S)
        if status >= 300:
            _answer(status, found)
        return found

    def send(self, path: str, data: bytes) -> Any:
        """The JSON of the answer to PUT of *data* as it is. Raises: as `call`."""
        return _answer(*self._exchange("PUT", path, data, "application/octet-stream", CALL_TIMEOUT_S))

    def _exchange(
        self, method: str, path: str, body: bytes | None, media_type: str, timeout_s: float
    ) -> tuple[int, bytes]:
        if not (self._token.isascii() and self._token.isprintable()):
            raise ConfigError("--token: this is no token: it holds characters that none has")
        where, connection, prefix = self._connection(timeout_s)
        headers = {"Content-Type": media_type, **({"Authorization": self._token} if self._token else {})}
        try:
            connection.request(method, prefix + path, body, headers)
            response = connection.getresponse()
            status, data = response.status, response.read(ANSWER_BYTES_MAX)
        except TimeoutError:
            raise Unavailable(f"{where} did not answer within {timeout_s:g} s") from None
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError, socket.gaierror):
            raise NotRunning(
                f"no server answers at {where}", hint="start one with `tw serve`, or name it with --url"
            ) from None
        except PermissionError:
            raise NotRunning(
                f"{where}: permission denied", hint="the server runs under another account; use --url"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{where} broke off: {error or type(error).__name__}") from None
        finally:
            connection.close()
        if status == 401 and self._url and not self._token:
            raise RequestError(f"{where} wants a token", hint=NO_TOKEN)
        return status, data

    def _connection(self, timeout_s: float) -> tuple[str, http.client.HTTPConnection, str]:
        if not self._url:
            return self._socket_path, _UnixConnection(self._socket_path, timeout_s), ""
        parts = urlsplit(self._url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--url: expected an address that starts with http:// or https://, got {self._url!r}")
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        try:
            connection = make(parts.hostname, parts.port, timeout=timeout_s)
        except ValueError:
            raise ConfigError(f"--url: {self._url!r} has no port between 0 and 65535") from None
        return self._url, connection, parts.path.rstrip("/")


def _answer(status: int, data: bytes) -> Any:
    try:
        answer = json.loads(data) if data.strip() else None
    except ValueError:
        answer = data.decode(errors="replace")
    if status < 300:
        return answer
    text = answer.get("message") or answer.get("error") if isinstance(answer, dict) else answer
    text = str(text or f"the server answered {status} {http.client.responses.get(status, '')}")
    hint = answer.get("hint") if isinstance(answer, dict) else None
    raise (Unavailable if status >= 500 else RequestError)(text, hint=str(hint) if hint else None)


def controlled(command: F) -> F:
    """Adds the options that say which server; the command gets `config_file, data_dir, url, token`."""
    command = click.option("--token", envvar="TW_TOKEN", default="", help="Token for --url. [env: TW_TOKEN]")(command)
    command = click.option(
        "--url", envvar="TW_URL", default="", help="API of a server, in place of its control socket. [env: TW_URL]"
    )(command)
    return configured(command)


def control(config_file: str | None, data_dir: str | None, url: str, token: str) -> Control:
    if url:
        return Control(url=url, token=token)
    return Control(socket_path=control_socket(reading(config_file, data_dir).config.data_dir))


def tenant_path(tenant: int, *, user: bool) -> str:
    return f"/{'users' if user else 'guilds'}/{tenant}"


def quoted(name: str) -> str:
    """*name* as one segment of a path."""
    return quote(name, safe="")
