"""What staff does with the shop, for root users, each action a line of the log with who did it.

- ``GET /i/shop?name&state&limit&after``: versions by name, lowest first; ``GET /i/shop/{name}/{version}``: one with files.
- ``PUT /i/shop/{name}/{version}`` publishes: ``{"files", "entry"?, "events"?, "allowed_caps"?, "short"?, "long"?,
  "owner"?: {"type": "guild" | "user", "id"}}``. It waits for its review, and never changes.
- ``PUT .../review {"state": "pending" | "approved" | "denied", "note"?}`` and ``PUT .../withdraw {"note"?}`` answer when
  every tenant that runs it has been told: ``tenants``, and ``away`` for those whose worker reads it when it comes back.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from pytw.api.answers import answer
from pytw.api.auth import require_root
from pytw.api.bodies import body_of
from pytw.api.capabilities import capability_warnings
from pytw.api.context import CONTEXT, Shop
from pytw.api.evaluation import evaluate
from pytw.api.eventnames import event_warnings
from pytw.api.numbers import limit_of, snowflake
from pytw.api.running import flush_others
from pytw.errors import NotFound
from pytw.limits import SHOP_LIST_MAX
from pytw.storage.shop import Publication
from pytw.storage.shopversions import checked_shop_name, checked_version
from pytw.storage.templatechecks import checked_files
from pytw.types import ENTRY, EVERY_CAPABILITY, Id, OwnerType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytw.storage.shop import Listing

log = logging.getLogger("staff")

LISTINGS_SHOWN = 100
#: On whose CPU time the staff's own templates are evaluated: nobody has this id.
STAFF_TENANT = 0


class Owner(msgspec.Struct, forbid_unknown_fields=True):
    """Whose template it is."""

    type: OwnerType
    id: str


class Publish(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT. Without ``events`` they are the keys of what the entry returns."""

    files: dict[str, str]
    entry: str = ENTRY
    events: list[str] | None = None
    allowed_caps: list[str] | None = None
    short: str = ""
    long: str | None = None
    owner: Owner | None = None


class Review(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT review."""

    state: str
    note: str = ""


class Withdraw(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT withdraw, which may be empty."""

    note: str = ""


_publish = msgspec.json.Decoder(Publish)
_review = msgspec.json.Decoder(Review)
_withdraw = msgspec.json.Decoder(Withdraw)


def routes() -> list[web.RouteDef]:
    place = "/i/shop/{name}/{version}"
    return [
        web.get("/i/shop", list_),
        web.get(place, get),
        web.put(place, publish),
        web.put(place + "/review", review),
        web.put(place + "/withdraw", withdraw),
    ]


async def list_(request: web.Request) -> web.Response:
    await require_root(request)
    query = request.query
    limit = limit_of(request, LISTINGS_SHOWN, SHOP_LIST_MAX)
    found = await _shop(request).list(
        query.get("name") or None, state=query.get("state") or None, limit=limit, after=query.get("after") or None
    )
    after = f"{found[-1].name}#{found[-1].version}" if len(found) == limit else None
    return answer({"templates": [_shown(listing) for listing in found], "after": after})


async def get(request: web.Request) -> web.Response:
    await require_root(request)
    listing = await _shop(request).get(*_place(request))
    return answer({**_shown(listing), "long": listing.long, "files": listing.files or {}})


async def publish(request: web.Request) -> web.Response:
    who = await require_root(request)
    context, shop, (name, version) = request.app[CONTEXT], _shop(request), _place(request)
    asked = await body_of(request, _publish)
    owner = None if asked.owner is None else Id(asked.owner.type, snowflake(asked.owner.id, "the owner's id"))
    files = checked_files(asked.files, context.limits)
    found = await evaluate(context, STAFF_TENANT if owner is None else owner.key, name, files, asked.entry)
    if found.error is not None:
        return found.refusal("nothing was published")
    events = list(found.events or ()) if asked.events is None else asked.events
    caps = [EVERY_CAPABILITY] if asked.allowed_caps is None else asked.allowed_caps
    await shop.publish(
        Publication(name, version, files, events, asked.entry, caps, owner, asked.short, asked.long, who.name)
    )
    log.info("%s published version %s of %s in the shop", who.name, version, name)
    told: dict[str, Any] = {"name": name, "version": version, "review_state": "pending", "events": events}
    if warnings := [*event_warnings(events), *capability_warnings(caps)]:
        told["warnings"] = warnings
    return answer(told)


async def review(request: web.Request) -> web.Response:
    who = await require_root(request)
    name, version = _place(request)
    asked = await body_of(request, _review)
    tenants = await _shop(request).review(name, version, asked.state, note=asked.note, author=who.name)
    log.info("%s reviewed version %s of %s in the shop: %s", who.name, version, name, asked.state)
    return await _flushed(request, tenants, {"review_state": asked.state})


async def withdraw(request: web.Request) -> web.Response:
    who = await require_root(request)
    name, version = _place(request)
    asked = await body_of(request, _withdraw) if request.can_read_body else Withdraw()
    tenants = await _shop(request).withdraw(name, version, note=asked.note, author=who.name)
    log.info("%s withdrew version %s of %s from the shop", who.name, version, name)
    return await _flushed(request, tenants, {"withdrawn": True})


async def _flushed(request: web.Request, tenants: Sequence[int], told: dict[str, Any]) -> web.Response:
    name, version = _place(request)
    flushed = await flush_others(request.app[CONTEXT], tenants)
    return answer({"name": name, "version": version, **told, **flushed})


def _shop(request: web.Request) -> Shop:
    shop = request.app[CONTEXT].shop
    if shop is None:
        raise NotFound("this server has no shop")
    return shop


def _place(request: web.Request) -> tuple[str, str]:
    return checked_shop_name(request.match_info["name"]), checked_version(request.match_info["version"])


def _shown(listing: Listing) -> dict[str, Any]:
    state = "withdrawn" if listing.withdrawn_at is not None else listing.review_state
    return {
        "name": listing.name,
        "version": listing.version,
        "state": state,
        "short": listing.short,
        "owner": {"type": listing.owner_type, "id": listing.owner_id},
        "entry": listing.entry,
        "events": listing.events,
        "allowed_caps": listing.allowed_caps,
        "digest": listing.digest,
        "bytes": listing.bytes,
        "published_by": listing.published_by,
        "created_at": listing.created_at,
        "review_note": listing.review_note,
        "reviewed_by": listing.reviewed_by,
        "reviewed_at": listing.reviewed_at,
    }
