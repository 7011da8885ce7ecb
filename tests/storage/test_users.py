from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from pytw.errors import LimitExceeded, NotFound, RequestError
from pytw.limits import API_TOKEN_S_MAX, API_TOKENS_MAX
from pytw.storage.stores import Stores


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
