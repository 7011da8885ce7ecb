"""The configuration: `config.yaml`, `TW_` variables and flags, checked key by key, with one table behind all of it.

The structs below are that table. Each field's annotation says what it accepts; from it come the check, the error text, the
name of the environment variable and docs/configuration.md. Source: the reference's config.yaml (spec 5.16) for the names.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from pytw.errors import ConfigError
from pytw.limits import Limits

CONFIG_FILE = "config.yaml"
SOCKET_PATH_BYTES_MAX = 107
SHORT_NAMES = {"TW_DATABASE_URL": "meta.postgres_url", "TW_DISCORD_TOKEN": "discord_auth.token"}
#: Variables of the command line itself: no keys, so never "unknown".
OTHER_VARIABLES = frozenset({"TW_CONFIG", "TW_URL", "TW_TOKEN"})

_ADDRESS = r"^(\[[0-9A-Fa-f:]+\]|[^\s:/\[\]]+):([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$"
_ADDRESS_TEXT = "HOST:PORT, such as 127.0.0.1:60000"
_URL_TEXT = "an address that starts with http:// or https://"


def _text(description: str, pattern: str | None = None, expected: str | None = None, *, secret: bool = False) -> Meta:
    return Meta(pattern=pattern, description=description, extra={"expected": expected, "secret": secret})


def _url(description: str) -> Meta:
    return _text(description, r"^(https?://[^\s/]+.*)?$", _URL_TEXT)


def _id(description: str) -> Meta:
    return Meta(ge=0, lt=1 << 63, description=description, extra={"expected": "a Discord id (a whole number)"})


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class DiscordAuth(_Section):
    token: Annotated[str, _text("Token of the bot. Without it `tw serve` runs in dev mode, on the mock Discord.", secret=True)] = ""
    client_id: Annotated[int, _id("Application id, for the login of the website. 0: not set.")] = 0
    client_secret: Annotated[str, _text("OAuth2 secret of the application.", secret=True)] = ""
    root_users: Annotated[list[int], Meta(description="Ids of the users who may do everything.")] = []
    allowed_redirects: Annotated[list[str], Meta(description="Addresses that a login may return to.")] = []


class MetaSection(_Section):
    postgres_url: Annotated[
        str,
        _text(
            "Database. Empty: PostgreSQL is started from its wheel, with its data in `data_dir`.",
            r"^(postgres(ql)?://\S+)?$",
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
            secret=True,
        ),
    ] = ""
    proxy: Annotated[str, _url("Address that takes the place of https://discord.com for REST requests.")] = ""
    support_server_invite: Annotated[str, _text("Invite that error messages show.")] = ""
    sandwich_http_api: Annotated[str, _url("Sandwich gateway proxy. Empty: own gateway shards.")] = ""
    default_error_channel: Annotated[int, _id("Channel for errors of templates that name none. 0: none.")] = 0


class Sites(_Section):
    api: Annotated[str, _url("Public address of this API.")] = ""
    frontend: Annotated[str, _url("Public address of the website.")] = ""
    docs: Annotated[str, _url("Public address of the documentation.")] = ""


class Servers(_Section):
    main: Annotated[int, _id("Guild of the people who run the bot. 0: none.")] = 0


class ObjectStorage(_Section):
    type: Annotated[Literal["local", "s3-like"], Meta(description="Where objects are kept.")] = "local"
    base_path: Annotated[str, _text("Folder (local) or prefix (s3-like). Empty: `objects` in `data_dir`.")] = ""
    endpoint: Annotated[str, _text("HOST:PORT of the S3 service.")] = ""
    secure: Annotated[bool, Meta(description="HTTPS to the S3 service.")] = False
    cdn_secure: Annotated[bool, Meta(description="HTTPS in signed URLs.")] = False
    cdn_endpoint: Annotated[str, _text("HOST:PORT in signed URLs. Empty: `endpoint`.")] = ""
    access_key: Annotated[str, _text("Access key of the S3 service.", secret=True)] = ""
    secret_key: Annotated[str, _text("Secret key of the S3 service.", secret=True)] = ""


class Addrs(_Section):
    template_worker: Annotated[str, _text("Where the HTTP API listens.", _ADDRESS, _ADDRESS_TEXT)] = "127.0.0.1:60000"
    mesophyll_server: Annotated[
        str, _text("Where the master listens for its workers. Empty: loopback, any free port.", f"^$|{_ADDRESS}", _ADDRESS_TEXT)
    ] = ""


class Log(_Section):
    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="The least level that is written.")] = "info"
    json: Annotated[bool, Meta(description="One JSON object per line in place of text.")] = False


class Pg(_Section):
    bin: Annotated[str, _text("Folder with `postgres` and `initdb` for the embedded database. Empty: the wheel's.")] = ""
    user: Annotated[str, _text("Account of the embedded database where pytw runs as root. Empty: pytw, postgres or nobody.")] = ""


def default_data_dir() -> str:
    """`/var/lib/pytw` for root, else `pytw` in the user's data folder (XDG)."""
    if os.geteuid() == 0:
        return "/var/lib/pytw"
    return str(Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "pytw")


class Config(_Section):
    """Everything an operator may set. Made by `load`; each value has passed its check."""

    discord_auth: DiscordAuth = DiscordAuth()
    meta: MetaSection = MetaSection()
    sites: Sites = Sites()
    servers: Servers = Servers()
    object_storage: ObjectStorage = ObjectStorage()
    addrs: Addrs = Addrs()
    pg: Pg = Pg()
    log: Log = Log()
    limits: Limits = Limits()
    data_dir: Annotated[
        str,
        _text("Everything that pytw keeps on disk: embedded database, objects, control socket.", r"^.*\S.*$", "a folder"),
    ] = msgspec.field(default_factory=default_data_dir)

    def dev_mode(self, *, dev: bool) -> bool:
        """Whether the mock Discord and the open test routes exist: *dev* (the flag) or no Discord credentials at all.

        Raises:
            ConfigError: something real is configured without a token, or dev mode would listen beyond loopback.
        """
        if not dev:
            if self.discord_auth.token:
                return False
            for key, value in (
                ("meta.postgres_url", self.meta.postgres_url),
                ("discord_auth.client_id", self.discord_auth.client_id),
                ("discord_auth.client_secret", self.discord_auth.client_secret),
            ):
                if value:
                    raise ConfigError(
                        f"{key} is set but discord_auth.token is not",
                        hint="set TW_DISCORD_TOKEN, or pass --dev to run on the mock Discord",
                    )
        host, _ = split_address(self.addrs.template_worker)
        if host not in ("localhost", "::1") and not host.startswith("127."):
            raise ConfigError(
                f"addrs.template_worker is {self.addrs.template_worker}, and dev mode only listens on loopback",
                hint="set discord_auth.token for a real bot, or listen on 127.0.0.1",
            )
        return True


class Key(NamedTuple):
    """One setting: its dotted path, its type with what it accepts, and its default."""

    path: str
    type: Any
    default: Any

    @property
    def variable(self) -> str:
        return "TW_" + self.path.replace(".", "_").upper()

    @property
    def rules(self) -> Meta:
        return next((m for m in get_args(self.type)[1:] if isinstance(m, Meta)), Meta())

    @property
    def secret(self) -> bool:
        return bool((self.rules.extra or {}).get("secret"))

    @property
    def expected(self) -> str:
        """What the key accepts, in words: for errors and for the documentation."""
        base, rules = get_args(self.type)[0], self.rules
        if text := (rules.extra or {}).get("expected"):
            return str(text)
        if get_origin(base) is Literal:
            return "one of " + ", ".join(map(str, get_args(base)))
        if get_origin(base) is list:
            return "a list of Discord ids" if get_args(base) == (int,) else "a list of texts"
        if base is bool:
            return "true or false"
        if base is int:
            return f"a whole number from {rules.ge:,} to {rules.le:,}" if rules.le is not None else f"a whole number from {rules.ge:,}"
        return "text"

    def check(self, value: Any, origin: str) -> Any:
        """*value* as the key's type. Raises ConfigError with origin, key and what was expected."""
        if isinstance(value, str) and get_origin(get_args(self.type)[0]) is list:
            value = [item.strip() for item in value.split(",") if item.strip()]
        try:
            return msgspec.convert(value, self.type, strict=False)
        except msgspec.ValidationError:
            got = "" if self.secret else f", got {value!r:.80}"
            raise ConfigError(f"{origin}: {self.path}: expected {self.expected}{got}") from None


def keys(section: type[Struct] = Config, prefix: str = "") -> Iterator[Key]:
    """Every setting, in the order of the structs."""
    hints = get_type_hints(section, include_extras=True)
    for field in msgspec.structs.fields(section):
        path, kind = prefix + field.name, hints[field.name]
        if isinstance(kind, type) and issubclass(kind, Struct):
            yield from keys(kind, path + ".")
        else:
            yield Key(path, kind, field.default if field.default is not msgspec.NODEFAULT else field.default_factory())  # type: ignore[misc]


class Reading(NamedTuple):
    """A configuration with what `tw config show` tells of it: where each value came from, and what looked odd."""

    config: Config
    origins: Mapping[str, str]
    warnings: list[str]


def _nearest(word: str, known: list[str]) -> str | None:
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {found[0]}?" if found else None


def _flatten(tree: Any, origin: str, known: Mapping[str, Key], prefix: str = "") -> Iterator[tuple[str, Any]]:
    sections = {path.rpartition(".")[0] for path in known} - {""}
    if not isinstance(tree, dict):
        raise ConfigError(f"{origin}: {prefix[:-1] or 'the file'}: expected keys and values, got {tree!r:.80}")
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if path in known:
            yield path, value
        elif path in sections:
            yield from _flatten({} if value is None else value, origin, known, path + ".")
        else:
            raise ConfigError(f"{origin}: unknown key {path}", hint=_nearest(path, [*known, *sections]))


def _read_file(path: Path) -> Any:
    import yaml

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}") from None
    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None


def read(
    file: str | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, tuple[str, Any]] | None = None
) -> Reading:
    """The configuration that a start would use: defaults, below the file, below `TW_` variables, below flags.

    Args:
        file: must exist; None takes `config.yaml` of the working directory where there is one.
        flags: key path -> (the flag's name, value).
    Raises:
        ConfigError: names file (or variable, or flag), key and what was expected.
    """
    environ = os.environ if environ is None else environ
    known = {key.path: key for key in keys()}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    found = Path(file or environ.get("TW_CONFIG") or CONFIG_FILE)
    if file or environ.get("TW_CONFIG") or found.exists():
        tree = _read_file(found)
        for path, value in _flatten({} if tree is None else tree, str(found), known):
            if value is not None:
                values[path], origins[path] = known[path].check(value, str(found)), str(found)
    variables = {key.variable: key.path for key in known.values()} | SHORT_NAMES
    # A short form wins over the long one: it comes later in `variables`.
    for name, path in variables.items():
        if name in environ:
            values[path], origins[path] = known[path].check(environ[name], name), name
    for path, (flag, value) in (flags or {}).items():
        values[path], origins[path] = known[path].check(value, flag), flag
    warnings = [
        " ".join(filter(None, [f"{name} is not a setting;", _nearest(name, list(variables)) or "see `tw config show`"]))
        for name in sorted(environ)
        if name.startswith("TW_") and name not in variables and name not in OTHER_VARIABLES
    ]
    tree = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return Reading(msgspec.convert(tree, Config), origins, warnings)


def load(file: str | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """`read`, for callers who only want the values."""
    return read(file, environ).config


def split_address(address: str) -> tuple[str, int]:
    """Host and port of a checked HOST:PORT; brackets of an IPv6 host go."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def control_socket(data_dir: str) -> str:
    """Where a server with *data_dir* takes the command line's calls."""
    path = str(Path(data_dir).absolute() / "control.sock")
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(f"data_dir: {path} is longer than a socket's path may be ({SOCKET_PATH_BYTES_MAX} bytes)")
    return path


def without_password(url: str) -> str:
    """*url* fit to be shown."""
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":(hidden)@", 1) if parts.password else url
