"""Databases of the reference are taken over: whatever state they are in, without losing a row."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytw import values
from pytw.errors import ConfigError, SchemaOutdated
from pytw.storage import migrate as module
from pytw.storage import takeover
from pytw.storage.migrate import TAKEOVER, Kind, files, migrate, require_current, status
from pytw.storage.takeover import valuesv1
from tests.storage import reference
from tests.storage.reference import START, STATES, Row

EVERYTHING = [*(migration.id for migration in files()), TAKEOVER]


async def build(url: str, rows: list[Row], done: int, *, recorded: bool = True, more: str = "") -> None:
    connection = await asyncpg.connect(url)
    await reference.seed(connection, rows)
    await reference.advance(connection, rows, done, recorded=recorded)
    if more:
        await connection.execute(more)
    await connection.close()


async def fetch(url: str, statement: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement, *arguments)]
    finally:
        await connection.close()


async def left(url: str) -> dict[str, list[Any]]:
    """What was left out or changed: identity by reason."""
    found: dict[str, list[Any]] = {}
    for reason, identity in await fetch(url, "SELECT reason, identity::text FROM takeover_left ORDER BY id"):
        found.setdefault(reason, []).append(json.loads(identity) if identity else None)
    return found


async def kv(url: str) -> dict[str, Any]:
    """Owner, key, scopes, value, expiry and resume by id."""
    rows = await fetch(url, "SELECT id, owner_id, key, scopes, value::text, expires_at, resume FROM tenant_kv")
    return {
        id_: (owner, key, scopes, values.from_tagged_json(json.loads(value)), expires_at, resume)
        for id_, owner, key, scopes, value, expires_at, resume in rows
    }


def expected(rows: list[Row], done: int) -> dict[str, Any]:
    """What the reference itself still knows after so many of its migrations."""
    return {
        r.id: (
            r.owner,
            r.key,
            sorted(set(r.scopes)),
            r.value,
            r.expires_at if done < 5 else None,
            r.resume if done < 4 else False,
        )
        for r in rows
    }


async def consistent(url: str) -> None:
    """What triggers keep beside the keys is right."""
    counted = "SELECT owner_type, owner_id, count(*), sum(bytes) FROM tenant_kv GROUP BY 1, 2 ORDER BY 1, 2"
    kept = "SELECT owner_type, owner_id, keys, bytes FROM tenant_kv_usage WHERE keys <> 0 OR bytes <> 0 ORDER BY 1, 2"
    assert [(a, b, n, int(size)) for a, b, n, size in await fetch(url, counted)] == await fetch(url, kept)
    by_scope = "SELECT owner_id, kv_scope(scope), key, id FROM tenant_kv, unnest(scopes) scope ORDER BY 1, 2, 3, 4"
    assert await fetch(url, by_scope) == await fetch(
        url, "SELECT owner_id, scope, key, id FROM tenant_kv_scopes ORDER BY 1, 2, 3, 4"
    )


@pytest.mark.weakness(13)
@pytest.mark.parametrize(("done", "recorded"), STATES)
async def test_every_state_of_the_references_migrations_is_taken_over(
    empty_database_url: str, done: int, recorded: bool
) -> None:
    """Also where its last migration ran and was not recorded: the reference converts values twice then, or drops the states."""
    rows = reference.some_rows()
    await build(empty_database_url, rows, done, recorded=recorded)
    assert (await status(empty_database_url)).kind is Kind.REFERENCE
    with pytest.raises(SchemaOutdated, match="one of the reference"):
        await require_current(empty_database_url)
    assert await migrate(empty_database_url) == EVERYTHING
    assert await kv(empty_database_url) == expected(rows, done)
    assert await left(empty_database_url) == {}
    await consistent(empty_database_url)
    await require_current(empty_database_url)
    assert await migrate(empty_database_url) == []


@pytest.mark.weakness(13)
@pytest.mark.parametrize("converted", [1, 7, 19])
async def test_values_of_an_interrupted_conversion_are_not_converted_twice(
    empty_database_url: str, converted: int
) -> None:
    rows = [row for row in reference.some_rows() if row.value not in ("Null",)]
    connection = await asyncpg.connect(empty_database_url)
    await reference.seed(connection, rows)
    await reference.convert(connection, rows[1:][:converted])
    await connection.close()
    await migrate(empty_database_url)
    assert await kv(empty_database_url) == expected(rows, 0)
    noted = (await left(empty_database_url))["the value looks converted already, and was not converted again"]
    assert {row["id"] for row in noted} == {row.id for row in rows[1:][:converted]}


class Crash(Exception):
    """In place of the process's end."""


@pytest.mark.weakness(13)
@pytest.mark.parametrize("point", ["move", "_apply", "take_accounts", "take_shared", "take_kv", "take_templates"])
async def test_a_take_over_that_ended_half_way_goes_on_where_it_was(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    rows = reference.some_rows()
    await build(empty_database_url, rows, 0)
    where = module if point == "_apply" else takeover
    work = getattr(where, point)

    async def works_and_ends(*arguments: Any) -> None:
        await work(*arguments)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(where, point, works_and_ends)
        with pytest.raises(Crash):
            await migrate(empty_database_url)
    with pytest.raises(SchemaOutdated, match="not taken over yet"):
        await require_current(empty_database_url)
    assert (await migrate(empty_database_url))[-1] == TAKEOVER
    assert await kv(empty_database_url) == expected(rows, 0)
    await consistent(empty_database_url)


async def test_the_tables_of_the_reference_stay_as_they_were(empty_database_url: str) -> None:
    rows = reference.some_rows()
    await build(
        empty_database_url, rows, 0, more="INSERT INTO jobs (name) VALUES ('j'); CREATE TABLE elsewhere (n int)"
    )
    tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = $1::text::regnamespace ORDER BY 1"
    before = set(await fetch(empty_database_url, tables, "public")) - {("elsewhere",)}
    checksum = "SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM {}.guild_templates_kv t"
    was = await fetch(empty_database_url, checksum.format("public"))
    await migrate(empty_database_url)
    assert set(await fetch(empty_database_url, tables, "reference")) == before
    assert await fetch(empty_database_url, checksum.format("reference")) == was
    assert ("elsewhere",) in await fetch(empty_database_url, tables, "public")
    assert await left(empty_database_url) == {"all 1 rows: this version has nothing like them": [None]}


async def test_keys_that_have_no_place_are_listed_with_the_reason(empty_database_url: str) -> None:
    guild = "100000000000000001"
    good = Row("good", guild, "k", ["s"], 1)
    rows = [
        good,
        Row("long", guild, "x" * 513, ["s"], 1),
        Row("empty", guild, "", ["s"], 1),
        Row("owner", "guild one", "k", ["s"], 1),
        Row("zero", "007", "k", ["s"], 1),
        Row("big", str(2**63), "k", ["s"], 1),
        Row("none", guild, "k", [], 1),
        Row("none2", guild, "k8", [], 1),
        Row("named", guild, "k8", ["unscoped"], 2, updated=START + timedelta(days=1)),
        Row("null", guild, "k", ["s", None], 1),  # type: ignore[list-item]
        Row("malformed", guild, "k2", ["s"], 1, raw='{"Text": 5}'),
        Row("deep", guild, "k3", ["s"], 1, raw='{"List": [{"Map": [[{"Text": "a"}]]}]}'),
        Row("tag", guild, "k4", ["s"], 1, raw='{"What": 5}'),
        Row("two", guild, "k5", ["s"], 1, raw='{"Text": "a", "Boolean": true}'),
        Row("sqlnull", guild, "k6", ["s"], None, raw="NULL"),
        Row("older", guild, "k7", ["a", "b"], "old"),
        Row("newer", guild, "k7", ["b", "a", "a"], "new", updated=START + timedelta(days=1)),
        Row("oldest", guild, "k7", ["b", "a"], "oldest", updated=START - timedelta(days=1)),
    ]
    await build(empty_database_url, rows, 5)
    await migrate(empty_database_url)
    found = await kv(empty_database_url)
    assert {id_: row[3] for id_, row in found.items()} == {
        "good": 1,
        "sqlnull": None,
        "newer": "new",
        "none": 1,
        "named": 2,
    }
    assert found["newer"][2] == ["a", "b"]
    assert found["none"][2] == ["unscoped"]
    reasons = {reason: [row["id"] for row in rows] for reason, rows in (await left(empty_database_url)).items()}
    assert {reason: sorted(ids) for reason, ids in reasons.items()} == {
        "the key is longer than 512 bytes": ["long"],
        "the key is empty": ["empty"],
        "the owner is not a number": ["big", "owner", "zero"],
        "it had no scope, and is under the scope unscoped now": ["none"],
        "a scope is null": ["null"],
        "the value is malformed": ["deep", "malformed", "tag", "two"],
        "the same key and scopes were written later": ["none2", "older", "oldest"],
    }
    told = (await status(empty_database_url)).takeover
    assert "5 of tenant_kv" in told[0]
    assert any(line.startswith("left out: 3 x tenant_kv: the owner is not a number, such as {") for line in told)
    assert "DROP SCHEMA reference CASCADE" in told[-1]


async def test_old_values_that_cannot_be_read_are_listed(empty_database_url: str) -> None:
    marked = '{"___khronosValType___": "%s", "value": %s}'
    raw = {"kind": marked % ("secret", 1), "base64": marked % ("buffer", '"!!"'), "zone": marked % ("timezone", 5)}
    rows = [Row(id_, "1", id_, ["s"], None, raw=text) for id_, text in raw.items()]
    await build(empty_database_url, [*rows, Row("null", "1", "null", ["s"], None, raw="NULL")], 0)
    await migrate(empty_database_url)
    assert (await kv(empty_database_url)).keys() == {"null"}
    assert {row["id"] for row in (await left(empty_database_url))["the value is malformed"]} == raw.keys()


TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False, width=64).filter(lambda x: x == 0 or not x.is_integer())
    | st.text()
    | st.binary(max_size=20).map(values.Buffer)
    | st.tuples(*[st.floats(width=32, allow_nan=False, allow_infinity=False)] * 3).map(lambda v: values.Vector(*v))
    | st.tuples(st.integers(-(2**40), 2**40), st.integers(0, 10**9 - 1)).map(lambda v: values.Interval(*v))
    | st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
    | st.sampled_from(["UTC", "Europe/London"]).map(values.TimeZone),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(TREES)
def test_old_values_become_what_they_were(value: Any) -> None:
    parsed = json.loads(json.dumps(reference.v1(value)))
    assert valuesv1.to_tagged(parsed) == values.to_tagged_json(value)


@given(st.binary(max_size=100).map(values.Buffer))
def test_old_buffers_may_be_base64(value: values.Buffer) -> None:
    assert valuesv1.to_tagged(reference.v1_base64(value)) == values.to_tagged_json(value)


async def test_users_and_tokens_become_hashes(empty_database_url: str) -> None:
    more = """
    INSERT INTO users (user_id, state, access_token, guilds_cache) VALUES
        ('5', 'normal', 'oauth', '[]'), ('6', 'banned', NULL, NULL), ('staff', 'normal', NULL, NULL);
    INSERT INTO web_api_tokens (user_id, type, expiry, token, name) VALUES
        ('5', 'login', now() + '1 hour', 'clear1', NULL), ('5', 'api', '200000-01-01', 'clear2', repeat('x', 300)),
        ('6', 'cookie', now() + '1 hour', 'clear3', NULL), ('staff', 'login', now() + '1 hour', 'clear4', NULL)"""
    await build(empty_database_url, [], 5, more=more)
    await migrate(empty_database_url)
    users = await fetch(empty_database_url, "SELECT user_id, state, access_token FROM users ORDER BY 1")
    assert users == [("5", "normal", "oauth"), ("6", "banned", None)]
    tokens = await fetch(
        empty_database_url,
        "SELECT token_hash, user_id, type, octet_length(name), expiry < now() + '367 days' FROM web_api_tokens ORDER BY type",
    )
    assert tokens == [
        (hashlib.sha256(b"clear2").digest(), "5", "api", 64, True),
        (hashlib.sha256(b"clear1").digest(), "5", "login", None, True),
    ]
    assert (await left(empty_database_url)).keys() == {
        "the user id is not a number",
        "the type of the session is not known",
        "its user was left out",
        "it lives for 366 days from now, no longer",
        "the name is cut",
    }
    everything = await fetch(empty_database_url, "SELECT identity::text, detail FROM takeover_left")
    assert "clear" not in str(everything)


@pytest.mark.parametrize("done", [0, 5])
async def test_states_of_tenants_in_both_forms(empty_database_url: str, done: int) -> None:
    if done:
        more = """INSERT INTO tenant_state (owner_type, owner_id, events, banned, data) VALUES
            ('guild', '1', '{B,A,B}', true, '{"x": 1}'), ('user', '1', '{}', false, '[]'), ('bot', '2', '{}', false, '{}')"""
    else:
        more = """INSERT INTO tenant_state (owner_type, owner_id, events, banned, flags) VALUES
            ('guild', '1', '{B,A,B}', true, 3), ('guild', '2', '{}', false, 0)"""
    await build(empty_database_url, [], done, more=more)
    await migrate(empty_database_url)
    rows = await fetch(
        empty_database_url, "SELECT owner_type, owner_id, events, banned, data::text FROM tenant_state ORDER BY 2, 1"
    )
    if done:
        assert rows == [("guild", "1", ["A", "B"], True, '{"x": 1}'), ("user", "1", [], False, "{}")]
        assert (await left(empty_database_url)).keys() == {
            "the owner is neither a guild nor a user",
            "data is not an object, and is empty now",
        }
    else:
        assert rows == [("guild", "1", ["A", "B"], True, "{}"), ("guild", "2", [], False, "{}")]
        assert (await left(empty_database_url)).keys() == {"nothing here has flags"}


async def test_the_global_store_keeps_versions_prices_and_reviews(empty_database_url: str) -> None:
    insert = "INSERT INTO global_kv (key, version, scope, owner_id, owner_type, public_metadata, data, short, price, review_state) VALUES "
    more = (
        insert
        + """
        ('good', 1, 's', '1', 'guild', '{}', '{"a": 1}', 'short', NULL, 'pending'),
        ('good', 2, 's', '9', 'staff', '{}', '1', 'short', 2000000000, 'approved'),
        ('.bad', 1, 's', '1', 'guild', '{}', '1', 'short', NULL, 'pending'),
        ('good', 3, 's', '9', 'staff', '{}', '1', 'short', -1, 'approved'),
        ('good', 4, '', '1', 'guild', '{}', '1', 'short', NULL, 'pending'),
        ('good', 5, 's', '1', 'guild', '{}', '1', repeat('x', 513), NULL, 'pending')"""
    )
    await build(empty_database_url, [], 5, more=more)
    await migrate(empty_database_url)
    rows = await fetch(empty_database_url, "SELECT version, data::text, price, review_state FROM global_kv ORDER BY 1")
    assert rows == [(1, '{"a": 1}', None, "pending"), (2, "1", 2_000_000_000, "approved")]
    assert len(await left(empty_database_url)) == 4


@pytest.mark.weakness(24)
async def test_templates_become_deployed_versions(empty_database_url: str) -> None:
    insert = "INSERT INTO guild_templates (guild_id, name, content, events, language, allowed_caps, paused, error_channel) VALUES "
    more = (
        insert
        + """
        ('1', 'one', '{"/init.luau": "return 1", "lib/a.luau": "return 2"}', '{MESSAGE,KeyExpiry[x]}', 'luau', '{kv:*}', false, '77'),
        ('1', 'two', '{"/init.luau": "return 1"}', '{}', 'luau', '{}', true, NULL),
        ('1', '$shop/thing#latest', '{}', '{MESSAGE}', 'luau', '{*}', false, NULL),
        ('1', '$shop/thing', '{}', '{MESSAGE}', 'luau', '{*}', false, NULL),
        ('1', 'js', '{"/init.js": "x"}', '{}', 'js', '{}', false, NULL),
        ('1', 'bad name!', '{"/init.luau": "x"}', '{}', 'luau', '{}', false, NULL),
        ('1', 'up', '{"../x.luau": "x"}', '{}', 'luau', '{}', false, NULL),
        ('1', 'list', '[1]', '{}', 'luau', '{}', false, NULL),
        ('1', 'none', '{}', '{}', 'luau', '{}', false, NULL),
        ('1', 'events', '{"/init.luau": "x"}', array_fill(''::text, '{1}'), 'luau', '{}', false, NULL),
        ('x', 'one', '{"/init.luau": "x"}', '{}', 'luau', '{}', false, NULL)"""
    )
    await build(empty_database_url, [], 0, more=more)
    await migrate(empty_database_url)
    rows = await fetch(
        empty_database_url,
        "SELECT name, events_override, allowed_caps, paused, error_channel, shop_ref, deployed_version IS NOT NULL FROM templates"
        " ORDER BY name",
    )
    assert rows == [
        ("$shop/thing#latest", ["MESSAGE"], ["*"], False, None, "$shop/thing#latest", False),
        ("one", ["KeyExpiry[x]", "MESSAGE"], ["kv:*"], False, "77", None, True),
        ("two", [], [], True, None, None, True),
    ]
    sources = await fetch(
        empty_database_url,
        "SELECT path, source FROM template_versions, jsonb_each_text(files) f (path, hash)"
        " JOIN sources s ON s.hash = decode(f.hash, 'hex') WHERE template = 'one' ORDER BY 1",
    )
    assert sources == [("init.luau", "return 1"), ("lib/a.luau", "return 2")]
    reasons = await left(empty_database_url)
    assert {reason: [row["name"] for row in rows] for reason, rows in reasons.items()} == {
        "the language is not luau": ["js"],
        "not a template name": ["bad name!"],
        "not a template of the shop": ["$shop/thing"],
        "its files have no place here": ["none", "up"],
        "the content is not a table of paths and sources": ["list"],
        "its events have no place here": ["events"],
        "the guild is not a number": ["one"],
    }


async def test_a_database_of_somebody_else_is_refused(empty_database_url: str) -> None:
    await fetch(empty_database_url, "CREATE TABLE users (id int)")
    for call in (migrate, status, require_current):
        with pytest.raises(ConfigError, match="tables of somebody else: users"):
            await call(empty_database_url)
    assert await fetch(empty_database_url, "SELECT relname FROM pg_class WHERE relname = '_migrations_applied'") == []


async def test_a_schema_that_is_in_the_way_is_told(empty_database_url: str) -> None:
    await build(empty_database_url, [], 5, more="CREATE SCHEMA reference")
    with pytest.raises(ConfigError, match="the database has a schema named reference"):
        await migrate(empty_database_url)


async def test_a_program_that_holds_the_tables_is_told(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "TABLE_LOCK_S_MAX", 0.1)
    await build(empty_database_url, [], 5)
    other = await asyncpg.connect(empty_database_url)
    async with other.transaction():
        await other.fetch("SELECT * FROM tenant_kv")
        with pytest.raises(ConfigError, match="a program still uses the tables of the reference"):
            await migrate(empty_database_url)
    await other.close()
    assert await migrate(empty_database_url) == EVERYTHING
