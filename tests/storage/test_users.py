from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from pytw.errors import DiscordUnavailable, Forbidden, LimitExceeded, NotFound, RequestError
from pytw.limits import (
    API_TOKEN_S_MAX,
    API_TOKENS_MAX,
    SESSION_LIFE_S,
    USER_GUILDS_BYTES_MAX,
    USER_GUILDS_LIFE_S,
)
from pytw.storage.pool import open_pool
from pytw.storage.stores import Stores
from pytw.storage.users import UserStore


@pytest.fixture
def dump(stores: Stores) -> Callable[[], Awaitable[str]]:
    """All rows of the tables of users, as texts and as JSON."""

    async def dumped() -> str:
        rows = await stores.db.fetch(
            "SELECT t::text, row_to_json(t)::text FROM users AS t UNION ALL SELECT t::text, row_to_json(t)::text FROM web_api_tokens AS t"
        )
        return str([tuple(row) for row in rows])

    return dumped


async def test_token_leads_to_its_session_and_is_not_kept(stores: Stores) -> None:
    await stores.users.keep("1")
    token, session = await stores.users.create_session("1", "api", 60, "mine")
    found = await stores.users.session(token)
    assert found == session
    assert (session.user_id, session.type, session.name, session.state) == ("1", "api", "mine", "normal")
    assert await stores.users.session(token + "x") is None
    assert token not in str(await stores.db.fetch("SELECT t::text FROM web_api_tokens t"))


async def test_state_of_the_user_is_told_with_the_session(stores: Stores) -> None:
    await stores.users.keep("1")
    token, _ = await stores.users.create_session("1", "login", 60)
    await stores.users.set_state("1", "banned")
    session = await stores.users.session(token)
    assert session is not None
    assert session.state == "banned"
    assert await stores.users.keep("1") == "banned"


@pytest.mark.weakness(16)
async def test_a_dump_of_the_tables_holds_no_token(stores: Stores, dump: Callable[[], Awaitable[str]]) -> None:
    """Neither as it was shown nor as the bytes that it stands for, in any encoding that a dump has."""
    tokens = []
    for user in ("1", "2"):
        await stores.users.keep(user)
        for type_ in ("login", "app_login", "api"):
            token, _ = await stores.users.create_session(user, type_, 3600, "mine")
            assert await stores.users.session(token) is not None
            tokens.append(token)
    dumped = await dump()
    for token in tokens:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        for form in (token, token.encode().hex(), raw.hex(), base64.b64encode(raw).decode().rstrip("=")):
            assert form not in dumped


async def test_a_session_is_read_once_in_its_life(stores: Stores) -> None:
    await stores.users.keep("1")
    token, _ = await stores.users.create_session("1", "api", 60)
    for _ in range(5):
        assert await stores.users.session(token) is not None
    assert stores.users.kept.counts() == {"entries": 1, "hits": 4, "misses": 1, "evictions": 0}


async def test_a_kept_session_is_read_anew_after_its_life(database_url: str) -> None:
    now = 0.0
    db = await open_pool(database_url, 2)
    users = UserStore(db, clock=lambda: now)
    await users.keep("1")
    token, _ = await users.create_session("1", "api", 3600)
    assert await users.session(token) is not None
    await db.execute("DELETE FROM web_api_tokens")
    assert await users.session(token) is not None
    now = SESSION_LIFE_S
    assert await users.session(token) is None
    await db.close()


async def test_a_session_is_kept_no_longer_than_it_lives(database_url: str) -> None:
    now, life_s = 0.0, SESSION_LIFE_S / 2
    db = await open_pool(database_url, 2)
    users = UserStore(db, clock=lambda: now)
    await users.keep("1")
    token, _ = await users.create_session("1", "api", life_s)
    assert await users.session(token) is not None
    now = life_s
    await users.session(token)
    assert users.kept.counts()["misses"] == 2
    await db.close()


async def test_tokens_that_nobody_has_are_not_kept(stores: Stores) -> None:
    for number in range(50):
        assert await stores.users.session(f"guess{number}") is None
    assert len(stores.users.kept) == 0


async def test_a_ban_and_the_end_of_a_session_are_effective_at_once(stores: Stores) -> None:
    await stores.users.keep("1")
    token, session = await stores.users.create_session("1", "api", 60)
    assert (await stores.users.session(token)) == session
    await stores.users.set_state("1", "banned")
    found = await stores.users.session(token)
    assert found is not None
    assert found.state == "banned"
    with pytest.raises(Forbidden, match="user 1 is banned"):
        await stores.users.user_of(token)
    await stores.users.set_state("1", "normal")
    assert await stores.users.user_of(token) == "1"
    await stores.users.delete_session("1", session.id)
    assert await stores.users.user_of(token) is None
    assert await stores.users.session(token) is None


@pytest.mark.weakness(28)
async def test_guilds_are_read_anew_after_their_life(stores: Stores) -> None:
    asked = 0

    async def read() -> list[dict[str, str]]:
        nonlocal asked
        asked += 1
        return [{"id": str(asked)}]

    await stores.users.keep("1")
    assert await stores.users.guilds("1", read) == [{"id": "1"}]
    assert await stores.users.guilds("1", read) == [{"id": "1"}]
    await stores.db.execute(f"UPDATE users SET guilds_cached_at = guilds_cached_at - interval '{USER_GUILDS_LIFE_S} s'")
    assert await stores.users.guilds("1", read) == [{"id": "2"}]
    assert await stores.users.guilds("1", read, refresh=True) == [{"id": "3"}]
    assert await stores.users.guilds("1", read) == [{"id": "3"}]


async def test_guilds_that_cannot_be_read_are_not_kept(stores: Stores) -> None:
    async def away() -> None:
        raise DiscordUnavailable("away")

    async def many() -> str:
        return "x" * USER_GUILDS_BYTES_MAX

    async def few() -> list[str]:
        return []

    await stores.users.keep("1")
    for read, error in ((away, DiscordUnavailable), (many, LimitExceeded)):
        with pytest.raises(error):
            await stores.users.guilds("1", read)
    assert await stores.users.guilds("1", few) == []
    for refresh in (False, True):
        with pytest.raises(NotFound):
            await stores.users.guilds("2", few, refresh=refresh)


async def test_who_asks_for_guilds_at_once_waits_for_one_answer(stores: Stores) -> None:
    asked, told = 0, asyncio.Event()

    async def read() -> list[str]:
        nonlocal asked
        asked += 1
        await told.wait()
        return []

    await stores.users.keep("1")
    asking = [asyncio.create_task(stores.users.guilds("1", read, refresh=True)) for _ in range(10)]
    while not asked:
        await asyncio.sleep(0)
    told.set()
    assert await asyncio.gather(*asking) == [[]] * 10
    assert asked == 1


async def test_expired_tokens_are_nobodys_and_are_purged(stores: Stores) -> None:
    await stores.users.keep("1")
    token, _ = await stores.users.create_session("1", "api", 60)
    await stores.db.execute("UPDATE web_api_tokens SET expiry = now() - interval '1 s'")
    assert await stores.users.session(token) is None
    assert await stores.users.sessions("1") == []
    assert await stores.users.purge() == 1
    assert await stores.users.purge() == 0


async def test_sessions_are_ended_by_their_owner_only(stores: Stores) -> None:
    await stores.users.keep("1")
    await stores.users.keep("2")
    _, session = await stores.users.create_session("1", "api", 60)
    for user, session_id in (("2", session.id), ("1", uuid4())):
        with pytest.raises(NotFound):
            await stores.users.delete_session(user, session_id)
    assert [found.id for found in await stores.users.sessions("1")] == [session.id]
    await stores.users.delete_session("1", session.id)
    assert await stores.users.sessions("1") == []


async def test_number_of_sessions_is_bounded_also_among_concurrent_callers(stores: Stores) -> None:
    await stores.users.keep("1")
    made = await asyncio.gather(
        *(stores.users.create_session("1", "api", 60) for _ in range(API_TOKENS_MAX + 5)), return_exceptions=True
    )
    assert sum(isinstance(result, LimitExceeded) for result in made) == 5


@pytest.mark.parametrize(("type_", "life_s"), [("root", 60), ("api", 0), ("api", -1), ("api", API_TOKEN_S_MAX + 1)])
async def test_odd_sessions_are_refused(stores: Stores, type_: str, life_s: float) -> None:
    await stores.users.keep("1")
    with pytest.raises(RequestError):
        await stores.users.create_session("1", type_, life_s)


async def test_session_needs_a_user(stores: Stores) -> None:
    with pytest.raises(NotFound):
        await stores.users.create_session("1", "api", 60)
    with pytest.raises(NotFound):
        await stores.users.set_state("1", "normal")
