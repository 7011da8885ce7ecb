"""What an operator may set, as structs: each field's annotation says what it accepts, in a form that programs can read.

From it come the check, the error text, the name of the environment variable and docs/configuration.md.
Source: the reference's config.yaml (spec 5.16) for the names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from pytw.config.addresses import is_loopback, split_address
from pytw.errors import ConfigError
from pytw.limits import HTTP_DOMAINS, Limits

_ADDRESS = r"^(\[[0-9A-Fa-f:]+\]|[^\s:/\[\]]+):([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$"
_ADDRESS_TEXT = "HOST:PORT, such as 127.0.0.1:60000"
_DOMAIN = r"^(\*|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+)$"
_URL_TEXT = "an address that starts with http:// or https://"


def _text(
    description: str,
    pattern: str | None = None,
    expected: str | None = None,
    *,
    secret: bool = False,
    later: bool = False,
) -> Meta:
    """*later*: accepted, so that the reference's files stay whole, and without effect in this version."""
    extra = {"expected": expected, "secret": secret, "later": later}
    return Meta(pattern=pattern, description=description, extra=extra)


def _url(description: str, *, later: bool = False) -> Meta:
    return _text(description, r"^(https?://[^\s/]+.*)?$", _URL_TEXT, later=later)


def _id(description: str, *, later: bool = False) -> Meta:
    extra = {"expected": "a Discord id (a whole number)", "later": later}
    return Meta(ge=0, le=(1 << 63) - 1, description=description, extra=extra)


class DiscordAuth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    token: Annotated[
        str, _text("Token of the bot. Without it `tw serve` runs in dev mode, on the mock Discord.", secret=True)
    ] = ""
    client_id: Annotated[int, _id("Application id, for the login of the website. 0: not set.")] = 0
    client_secret: Annotated[str, _text("OAuth2 secret of the application.", secret=True, later=True)] = ""
    root_users: Annotated[list[int], Meta(description="Ids of the users who may do everything.")] = []
    allowed_redirects: Annotated[
        list[str], Meta(description="Addresses that a login may return to.", extra={"later": True})
    ] = []


class MetaSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    support_server_invite: Annotated[
        str, _text("Invite to the bot's support server, for templates (`ctx.Runtime:links`).")
    ] = ""
    sandwich_http_api: Annotated[str, _url("Sandwich gateway proxy. Empty: own gateway shards.", later=True)] = ""
    default_error_channel: Annotated[
        int, _id("Channel for errors of templates that name none. 0: none.", later=True)
    ] = 0


class Sites(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    api: Annotated[
        str,
        _url("Public address of this API: for templates (`ctx.Runtime:links`), and where URLs of their files lead."),
    ] = ""
    frontend: Annotated[str, _url("Public address of the website, for templates.")] = ""
    docs: Annotated[str, _url("Public address of the documentation, for templates.")] = ""


class Servers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    main: Annotated[int, _id("Guild of the people who run the bot. 0: none.", later=True)] = 0


class ObjectStorage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Annotated[Literal["local", "s3-like"], Meta(description="Where templates' files are kept.")] = "local"
    base_path: Annotated[
        str,
        _text(
            "Folder (local; empty: `objects` in `data_dir`), or bucket and what all keys begin with (s3-like; empty: "
            "`antiraid`), such as `bots/pytw`."
        ),
    ] = ""
    endpoint: Annotated[str, _text("HOST:PORT of the S3 service.")] = ""
    secure: Annotated[bool, Meta(description="HTTPS to the S3 service.")] = False
    cdn_secure: Annotated[bool, Meta(description="HTTPS in signed URLs.")] = False
    cdn_endpoint: Annotated[
        str,
        _text(
            "HOST:PORT in signed URLs of the S3 service, which must get requests under this name: URLs are signed for it. "
            "Empty: `endpoint`. A `$DOCKER:` before it, as the reference has, is taken off."
        ),
    ] = ""
    access_key: Annotated[str, _text("Access key of the S3 service.", secret=True)] = ""
    secret_key: Annotated[str, _text("Secret key of the S3 service.", secret=True)] = ""


class Addrs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    template_worker: Annotated[str, _text("Where the HTTP API listens.", _ADDRESS, _ADDRESS_TEXT)] = "127.0.0.1:60000"
    mesophyll_server: Annotated[
        str,
        _text(
            "Where the master listens for its workers. Empty: a UNIX socket of its own.",
            f"^$|{_ADDRESS}",
            _ADDRESS_TEXT,
        ),
    ] = ""


class Templates(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    compat_ratelimits: Annotated[
        bool,
        Meta(description="Rate limits of host calls as the reference has them: N at once, then one per period, not N."),
    ] = False
    http_domains: Annotated[
        list[Annotated[str, Meta(pattern=_DOMAIN)]],
        Meta(
            description="Domains that `ctx.HTTPClient` may reach, with their subdomains. `*`: every public host.",
            extra={"expected": "a list of domains, such as example.org, or *"},
        ),
    ] = msgspec.field(default_factory=lambda: list(HTTP_DOMAINS))


class Secrets(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: Annotated[
        str,
        _text(
            "Key that templates' secrets are encrypted with in the database: 32 bytes in base64 (`openssl rand -base64 32`). "
            "Empty: `secrets.key` in `data_dir`, which is made when first needed; a backup of the database is no use for "
            "secrets without it.",
            secret=True,
        ),
    ] = ""
    old_keys: Annotated[
        list[str],
        Meta(
            description="Keys that secrets may have been encrypted with before, in base64: they can be read, new ones are "
            "written with `key`.",
            extra={"secret": True},
        ),
    ] = []


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least level that is written.")
    ] = "info"
    json: Annotated[bool, Meta(description="One JSON object per line in place of text.")] = False


class Pg(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bin: Annotated[str, _text("Folder with `postgres` and `initdb` for the embedded database. Empty: the wheel's.")] = (
        ""
    )
    user: Annotated[
        str, _text("Account of the embedded database where pytw runs as root. Empty: pytw, postgres or nobody.")
    ] = ""


def default_data_dir() -> str:
    """`/var/lib/pytw` for root, else `pytw` in the user's data folder (XDG)."""
    if os.geteuid() == 0:
        return "/var/lib/pytw"
    return str(Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "pytw")


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an operator may set. Made by `load`; each value has passed its check."""

    discord_auth: DiscordAuth = DiscordAuth()
    meta: MetaSection = MetaSection()
    sites: Sites = Sites()
    servers: Servers = Servers()
    object_storage: ObjectStorage = ObjectStorage()
    addrs: Addrs = Addrs()
    pg: Pg = Pg()
    log: Log = Log()
    templates: Templates = Templates()
    secrets: Secrets = Secrets()
    limits: Limits = Limits()
    data_dir: Annotated[
        str,
        _text(
            "Everything that pytw keeps on disk: embedded database, objects, control socket.", r"^.*\S.*$", "a folder"
        ),
    ] = msgspec.field(default_factory=default_data_dir)

    @property
    def links(self) -> dict[str, str]:
        """The addresses that templates are told; empty where none is set."""
        return {
            "support_server": self.meta.support_server_invite,
            "api_url": self.sites.api,
            "frontend_url": self.sites.frontend,
            "docs_url": self.sites.docs,
        }

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
        if not is_loopback(host):
            raise ConfigError(
                f"addrs.template_worker is {self.addrs.template_worker}, and dev mode only listens on loopback",
                hint="set discord_auth.token for a real bot, or listen on 127.0.0.1",
            )
        return True
