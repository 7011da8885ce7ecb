"""What staff does with what is published, for root users, each action a line of the log with who did it.

- ``GET /i/global-kvs?state&limit&after``: versions in a review state (pending by default).
- ``POST /i/global-kvs`` publishes in the name of the staff: ``{"scope", "key", "version", "short", "data", "long"?,
  "public_metadata"?, "public_data"?, "price"?, "review_state"?}``.
- ``GET /i/global-kvs/{scope}/{key}/{version}``: one version with its data, whatever its state.
- ``PUT .../review {"state"}``, ``PUT .../price {"price"}`` (null: everybody has it).
- ``GET .../purchases?limit&after``, ``PUT`` and ``DELETE .../purchases/{guilds|users}/{id}``; PUT may say
  ``{"price"}``, what was paid.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

import msgspec
import orjson
from aiohttp import web
from msgspec import Meta

from pytw.api.answers import answer
from pytw.api.auth import require_root
from pytw.api.bodies import body_of
from pytw.api.context import CONTEXT, GlobalKvs, GlobalStaff
from pytw.api.globalkv import PLACE, Place, partial, place_of, rows_of, value
from pytw.api.numbers import SNOWFLAKE_MAX, is_number
from pytw.api.running import TENANT, owner_of
from pytw.errors import NotFound, RequestError
from pytw.limits import GLOBAL_KV_PRICE_MAX, GLOBAL_KV_VERSION_MAX
from pytw.types import Id, OwnerType

log = logging.getLogger("staff")

Price = Annotated[int, Meta(ge=0, le=GLOBAL_KV_PRICE_MAX)]
#: Publications over the control socket are nobody's in particular.
NOBODY = "0"


class Publication(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST."""

    scope: str
    key: str
    version: Annotated[int, Meta(ge=1, le=GLOBAL_KV_VERSION_MAX)]
    short: str
    data: msgspec.Raw
    long: str | None = None
    public_metadata: msgspec.Raw = msgspec.Raw(b"{}")
    public_data: bool = False
    price: Price | None = None
    review_state: str = "pending"


class Review(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT review."""

    state: str


class NewPrice(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT price."""

    price: Price | None


class Grant(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT purchases, which may be empty."""

    price: Price | None = None


_publication = msgspec.json.Decoder(Publication)
_review = msgspec.json.Decoder(Review)
_price = msgspec.json.Decoder(NewPrice)
_grant = msgspec.json.Decoder(Grant)


def routes() -> list[web.RouteDef]:
    place = "/i/global-kvs" + PLACE
    return [
        web.get("/i/global-kvs", list_),
        web.post("/i/global-kvs", publish),
        web.get(place, get),
        web.put(place + "/review", review),
        web.put(place + "/price", price),
        web.get(place + "/purchases", purchases),
        web.put(place + "/purchases" + TENANT, grant),
        web.delete(place + "/purchases" + TENANT, revoke),
    ]


async def list_(request: web.Request) -> web.Response:
    await require_root(request)
    _, staff = _stores(request)
    state = request.query.get("state", "pending")
    found = await staff.in_state(state, limit=rows_of(request), after=_after(request.query.get("after")))
    last = found.items[-1] if found.after is not None else None
    after = None if last is None else f"{last.cursor}:{last.scope}"
    return answer({"items": [partial(record) for record in found.items], "after": after})


async def get(request: web.Request) -> web.Response:
    await require_root(request)
    _, staff = _stores(request)
    record = await staff.get(*place_of(request))
    return answer({"partial": partial(record), "data": value(record, hidden=False)})


async def publish(request: web.Request) -> web.Response:
    who = await require_root(request)
    published, _ = _stores(request)
    asked = await body_of(request, _publication)
    place = Place(asked.scope, asked.key, asked.version)
    await published.create(
        *place,
        owner_type="staff",
        owner_id=who.name if who.name.isdigit() else NOBODY,
        data=orjson.Fragment(_json("data", asked.data)),
        short=asked.short,
        long=asked.long,
        public_metadata=orjson.Fragment(_json("public_metadata", asked.public_metadata)),
        public_data=asked.public_data,
        price=asked.price,
        review_state=asked.review_state,
    )
    _noted(who.name, place, "published it: %s, price %s", asked.review_state, asked.price)
    return answer(_told(place, price=asked.price, review_state=asked.review_state), status=201)


async def review(request: web.Request) -> web.Response:
    who = await require_root(request)
    _, staff = _stores(request)
    place, asked = place_of(request), await body_of(request, _review)
    await staff.review(*place, asked.state)
    _noted(who.name, place, "reviewed it: %s", asked.state)
    return answer(_told(place, review_state=asked.state))


async def price(request: web.Request) -> web.Response:
    who = await require_root(request)
    _, staff = _stores(request)
    place, asked = place_of(request), await body_of(request, _price)
    await staff.set_price(*place, asked.price)
    _noted(who.name, place, "set its price to %s", asked.price)
    return answer(_told(place, price=asked.price))


async def purchases(request: web.Request) -> web.Response:
    await require_root(request)
    _, staff = _stores(request)
    place, limit = place_of(request), rows_of(request)
    found = await staff.purchases(*place, limit=limit, after=_buyer(request.query.get("after")))
    items = [
        {
            "owner_type": purchase.owner.owner_type.value,
            "owner_id": purchase.owner.owner_id,
            "price": purchase.price,
            "granted_by": purchase.granted_by,
            "created_at": purchase.created_at,
        }
        for purchase in found
    ]
    last = found[-1].owner if len(found) == limit else None
    after = None if last is None else f"{last.owner_type.value}:{last.owner_id}"
    return answer({"items": items, "after": after})


async def grant(request: web.Request) -> web.Response:
    who = await require_root(request)
    _, staff = _stores(request)
    place, owner = place_of(request), owner_of(request)
    asked = await body_of(request, _grant) if request.can_read_body else Grant()
    paid = await staff.grant(*place, owner, granted_by=who.name, price=asked.price)
    _noted(who.name, place, "noted that %s %s has bought it for %d", owner.owner_type.value, owner.owner_id, paid)
    return answer(_told(place, owner_type=owner.owner_type.value, owner_id=owner.owner_id, price=paid))


async def revoke(request: web.Request) -> web.Response:
    who = await require_root(request)
    _, staff = _stores(request)
    place, owner = place_of(request), owner_of(request)
    await staff.revoke(*place, owner)
    _noted(who.name, place, "took the purchase of %s %s back", owner.owner_type.value, owner.owner_id)
    return answer(_told(place, owner_type=owner.owner_type.value, owner_id=owner.owner_id, revoked=True))


def _stores(request: web.Request) -> tuple[GlobalKvs, GlobalStaff]:
    context = request.app[CONTEXT]
    if context.global_kv is None or context.global_staff is None:
        raise NotFound("there is no such page")
    return context.global_kv, context.global_staff


def _after(cursor: str | None) -> tuple[str, str, int]:
    """The place that a cursor of `list_` names. Raises: RequestError."""
    if not cursor:
        return "", "", 0
    version, _, rest = cursor.partition(":")
    key, separator, scope = rest.partition(":")
    if not separator or not is_number(version, GLOBAL_KV_VERSION_MAX):
        raise _no_cursor(cursor)
    return scope, key, int(version)


def _buyer(cursor: str | None) -> Id | None:
    """Raises: RequestError."""
    if not cursor:
        return None
    kind, _, number = cursor.partition(":")
    if kind not in list(OwnerType) or not is_number(number, SNOWFLAKE_MAX):
        raise _no_cursor(cursor)
    return Id(OwnerType(kind), int(number))


def _no_cursor(text: str) -> RequestError:
    return RequestError(f"not a cursor: {text[:80]!r}", hint="`after` is what the page before told")


def _json(what: str, text: msgspec.Raw) -> bytes:
    """The text as it is kept, without its spaces. Raises: RequestError."""
    try:
        return orjson.dumps(orjson.loads(bytes(text)))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{what} is not JSON: {error}") from None


def _told(place: Place, **more: Any) -> dict[str, Any]:
    return {**place._asdict(), **more}


def _noted(who: str, place: Place, what: str, *details: object) -> None:
    log.info("%s, global key %s/%s/%d: " + what, who, *place, *details)


__all__ = ["routes"]
