"""Discord's tokens of users: encrypted, and bound to their user."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pytw.errors import LimitExceeded, NotFound, Unavailable
from pytw.limits import USER_TOKEN_BYTES_MAX
from pytw.storage.pool import Database, open_pool
from pytw.storage.secretbox import SecretBox
from pytw.storage.users import UserStore
from pytw.storage.usertokens import SEALED_AT_ONCE, UserTokens

BOX = SecretBox(b"k" * 32)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    found = await open_pool(database_url, 2)
    await UserStore(found).keep("1")
    await UserStore(found).keep("2")
    yield found
    await found.close()


@pytest.mark.weakness(16)
async def test_a_dump_of_the_users_holds_no_token_of_discord(db: Database) -> None:
    tokens = UserTokens(db, BOX)
    await tokens.keep("1", "discord-token")
    row = str(await db.fetch("SELECT t::text FROM users AS t"))
    for form in ("discord-token", b"discord-token".hex()):
        assert form not in row
    assert await tokens.get("1") == "discord-token"
    await tokens.keep("1", "newer")
    assert await tokens.get("1") == "newer"


async def test_who_has_no_token_has_none(db: Database) -> None:
    for user in ("2", "3"):
        assert await UserTokens(db, BOX).get(user) is None


async def test_a_token_that_was_copied_to_another_user_is_nobodys(db: Database) -> None:
    tokens = UserTokens(db, BOX)
    await tokens.keep("1", "mine")
    await db.execute(
        "UPDATE users SET access_token_sealed = (SELECT access_token_sealed FROM users WHERE user_id = '1')"
    )
    assert (await tokens.get("1"), await tokens.get("2")) == ("mine", None)


async def test_a_token_of_another_key_is_none_until_the_next_login(db: Database) -> None:
    await UserTokens(db, BOX).keep("1", "mine")
    other = UserTokens(db, SecretBox(b"o" * 32))
    assert await other.get("1") is None
    assert await UserTokens(db, SecretBox(b"o" * 32, [b"k" * 32])).get("1") == "mine"
    await other.keep("1", "new")
    assert await other.get("1") == "new"


async def test_tokens_in_clear_are_encrypted_in_rounds(db: Database) -> None:
    number = 2 * SEALED_AT_ONCE + 1
    await db.execute(
        "INSERT INTO users (user_id, access_token) SELECT n::text, 'clear' || n FROM generate_series(1000, $1) AS n",
        999 + number,
    )
    tokens = UserTokens(db, BOX)
    assert await tokens.get("1000") == "clear1000"
    assert await tokens.seal_all() == number
    assert await tokens.seal_all() == 0
    assert await db.fetchval("SELECT count(*) FROM users WHERE access_token IS NOT NULL") == 0
    assert await tokens.get("1000") == "clear1000"


async def test_what_cannot_be_kept_is_refused(db: Database) -> None:
    with pytest.raises(NotFound):
        await UserTokens(db, BOX).keep("3", "x")
    with pytest.raises(LimitExceeded):
        await UserTokens(db, BOX).keep("1", "x" * (USER_TOKEN_BYTES_MAX + 1))
    with pytest.raises(Unavailable, match="has no key"):
        await UserTokens(db, None).keep("1", "x")
