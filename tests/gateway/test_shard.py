"""Shards against the mock Discord, over sockets."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from pytw.errors import ConfigError, NotReady, StorageUnavailable, TokenRefused
from pytw.gateway.session import ACK
from pytw.limits import CURSOR_WINDOW_EVENTS
from pytw.types import USER_BIT, Outcome
from tests.gateway.parts import GUILD, Cursors, Forwards, Offers, Slots, mocked, running


async def test_message_reaches_its_guild_under_its_documented_name():
    async with mocked() as mock:
        offers = Offers()
        async with running(mock, offers) as run:
            await mock.say(GUILD, "hello")
            await offers.until(1)
            tenant, event = offers.events[0]
            assert (tenant, event.name, event.author, event.redelivered) == (GUILD, "MESSAGE", None, False)
            assert event.payload.startswith(b"{")
            assert b'"content":"hello"' in event.payload
            assert run.shard.bot_id == mock.bot_id


async def test_event_nobody_listens_for_is_done_and_not_offered():
    async with mocked() as mock:
        offers, cursors = Offers(), Cursors()
        async with running(mock, offers, cursors=cursors, listens=lambda tenant, event: tenant == GUILD):
            await mock.say(9 << 22, "nobody")
            await mock.say(GUILD, "somebody")
            await offers.until(1)
        assert offers.texts == ["somebody"]
        session = next(iter(mock.sessions))
        assert cursors.kept[0].sequence == session.last
        assert cursors.kept[0].done_above == [-session.last]


async def test_own_messages_are_ignored_and_own_reactions_are_not():
    async with mocked() as mock:
        offers = Offers()
        async with running(mock, offers, listens=lambda tenant, event: event.startswith("MESSAGE")):
            mock.world.post(int((await mock.say(GUILD, "a"))["sent"]["channel_id"]), mock.bot_id, {"content": "mine"})
            mock.dispatch("MESSAGE_REACTION_ADD", {"guild_id": str(GUILD), "user_id": str(mock.bot_id)})
            await offers.until(2)
            assert [e.name for _, e in offers.events] == ["MESSAGE", "MESSAGE_REACTION_ADD"]


async def test_what_is_about_the_session_or_nobody_is_no_event():
    """Guilds that become known, and what names neither a guild nor a user."""
    async with mocked() as mock:
        offers = Offers()
        async with running(mock, offers, listens=lambda tenant, event: True):
            for name in ("GUILD_CREATE", "GUILD_DELETE", "RATE_LIMITED"):
                mock.dispatch(name, {"id": str(GUILD), "guild_id": str(GUILD)})
            mock.dispatch("USER_UPDATE", {"id": "5"})
            mock.dispatch("CHANNEL_CREATE", {"id": "6", "guild_id": str(GUILD)})
            await offers.until(1)
            assert [(tenant, event.name, event.author) for tenant, event in offers.events] == [
                (GUILD, "CHANNEL_CREATE", None)
            ]


async def test_own_messages_are_ignored_after_a_resume_without_ready():
    """Who we are is read from the token, since a resumed session sends no READY."""
    async with mocked() as mock:
        cursors, offers = Cursors(), Offers()
        async with running(mock, Offers(), cursors=cursors):
            pass
        async with running(mock, offers, cursors=cursors):
            sent = await mock.say(GUILD, "theirs")
            mock.world.post(int(sent["sent"]["channel_id"]), mock.bot_id, {"content": "mine"})
            await mock.say(GUILD, "theirs again")
            await offers.until(2)
            assert offers.texts == ["theirs", "theirs again"]


async def test_cut_connection_resumes_and_misses_nothing():
    async with mocked() as mock:
        offers, slots = Offers(), Slots()
        async with running(mock, offers, slots=slots) as run:
            await mock.say(GUILD, "0")
            await mock.cut(code=1006)
            for i in range(1, 51):
                await mock.say(GUILD, str(i))
            await run.until("ready", 5)
            await mock.say(GUILD, "51")
            await offers.until(52)
            assert offers.texts == [str(i) for i in range(52)]
            assert offers.flagged == []
            assert slots.taken == [0]
            assert run.shard.counts["resumes"] == 1


@pytest.mark.parametrize("code", [1000, 1001, 4000, 4001, 4002, 4005, 4008])
async def test_resumable_close_code_resumes(code: int):
    async with mocked() as mock, running(mock, Offers()) as run:
        await mock.cut(code=code)
        await run.until("ready", 5)
        assert (run.shard.identifies, run.shard.resumes) == (1, 1)


async def test_op_7_reconnects_and_resumes():
    async with mocked() as mock, running(mock, Offers()) as run:
        assert mock.reconnect() == 1
        await run.until("ready", 5)
        assert (run.shard.identifies, run.shard.resumes) == (1, 1)


async def test_session_that_timed_out_is_replaced():
    async with mocked() as mock:
        cursors = Cursors()
        async with running(mock, Offers(), cursors=cursors) as run:
            before = cursors.kept[0].session_id
            await mock.cut(code=4009)
            await run.until("ready", 5)
            assert (run.shard.identifies, run.shard.resumes) == (2, 0)
            assert None in cursors.reports
            assert cursors.kept[0].session_id != before


async def test_invalid_session_waits_and_identifies_once():
    async with mocked() as mock, running(mock, Offers()) as run:
        began = asyncio.get_running_loop().time()
        mock.invalidate()
        await run.until("ready", 10)
        assert 1.0 <= asyncio.get_running_loop().time() - began <= 6.5
        assert (run.shard.identifies, run.shard.resumes) == (2, 0)


@pytest.mark.parametrize("code", [4004, 4010, 4011, 4012, 4013, 4014])
async def test_fatal_close_code_stops_the_shard_with_an_alarm(code: int, caplog: pytest.LogCaptureFixture):
    async with mocked() as mock, running(mock, Offers()) as run:
        await mock.cut(code=code)
        with pytest.raises(ConfigError):
            await run.task
        assert run.shard.connections == 1
        assert run.shard.state == "stopped"
        assert [r.levelname for r in caplog.records if str(code) in r.getMessage()] == ["CRITICAL"]


async def test_wrong_token_is_named():
    async with mocked() as mock, running(mock, Offers(), token="wrong", ready=False) as run:
        with pytest.raises(TokenRefused):
            await run.task


async def test_zombie_connection_is_replaced_by_a_resumed_one():
    async with mocked(heartbeat_interval_ms=300) as mock, running(mock, Offers()) as run:
        mock.faults.acks_missing = 1
        await run.until("ready", 5)
        assert (run.shard.identifies, run.shard.resumes) == (1, 1)


async def test_heartbeats_keep_a_quiet_connection():
    async with mocked(heartbeat_interval_ms=100) as mock, running(mock, Offers()) as run:
        answered, acks, receive = asyncio.Event(), 0, run.shard._session.receive

        def counted(op: int, d: bytes):
            nonlocal acks
            acks += op == ACK
            if acks == 3:
                answered.set()
            return receive(op, d)

        run.shard._session.receive = counted
        await asyncio.wait_for(answered.wait(), 5)
        assert run.shard.connections == 1
        assert run.shard.ready


async def test_restarted_process_skips_what_is_done_and_flags_what_may_have_run():
    async with mocked() as mock:
        cursors = Cursors()
        first = Offers(hold=lambda text: text in ("2", "5"))
        async with running(mock, first, cursors=cursors) as run:
            for i in range(8):
                await mock.say(GUILD, str(i))
            await first.until(8)
            kept = await cursors.until(lambda cursor: len(cursor.done_above) == 4)
            await run.kill()
        cursors.kept[0] = kept
        for i in range(8, 12):
            await mock.say(GUILD, str(i))
        second = Offers()
        async with running(mock, second, cursors=cursors) as run:
            await mock.say(GUILD, "12")
            await second.until(7)
            assert second.texts == ["2", "5", "8", "9", "10", "11", "12"]
            assert second.flagged == ["2", "5", "8", "9", "10", "11"]
            assert (run.shard.identifies, run.shard.resumes) == (0, 1)
            assert run.shard.counts["skipped"] == 4


async def test_at_most_a_window_of_events_is_flagged_after_a_crash():
    async with mocked() as mock:
        cursors = Cursors()
        async with running(mock, Offers(), cursors=cursors) as run:
            kept = cursors.kept[0]
            await run.kill()
        cursors.kept[0] = kept
        missed = CURSOR_WINDOW_EVENTS + 44
        for i in range(missed):
            await mock.say(GUILD, str(i))
        offers = Offers()
        async with running(mock, offers, cursors=cursors):
            await offers.until(missed)
            assert offers.texts == [str(i) for i in range(missed)]
            assert offers.flagged == [str(i) for i in range(CURSOR_WINDOW_EVENTS)]


async def test_intake_waits_while_the_window_is_full_and_then_goes_on():
    async with mocked(heartbeat_interval_ms=200) as mock:
        offers = Offers(hold=lambda text: int(text) < CURSOR_WINDOW_EVENTS)
        total = CURSOR_WINDOW_EVENTS + 20
        async with running(mock, offers) as run:
            for i in range(total):
                await mock.say(GUILD, str(i))
            await offers.until(CURSOR_WINDOW_EVENTS)
            with pytest.raises(TimeoutError):
                await offers.until(CURSOR_WINDOW_EVENTS + 1, 0.7)
            assert run.shard.connections == 1
            offers.release()
            await offers.until(total)
            assert offers.texts == [str(i) for i in range(total)]


async def test_stopped_intake_leaves_the_session_to_the_next_process():
    async with mocked() as mock:
        cursors, first, second = Cursors(), Offers(hold=lambda text: text == "slow"), Offers()
        async with running(mock, first, cursors=cursors) as run:
            await mock.say(GUILD, "slow")
            await first.until(1)
            run.shard.stop_intake()
            await run.task
            await mock.say(GUILD, "later")
            first.release()
        async with running(mock, second, cursors=cursors) as run:
            await second.until(1)
            assert second.texts == ["later"]
            assert second.flagged == []
            assert run.shard.identifies == 0


async def test_session_that_the_gateway_forgot_begins_anew():
    async with mocked() as mock:
        cursors, offers = Cursors(), Offers()
        async with running(mock, Offers(), cursors=cursors):
            pass
        mock.sessions.drop_all()
        async with running(mock, offers, cursors=cursors) as run:
            assert (run.shard.identifies, run.shard.resumes) == (1, 1)
            await mock.say(GUILD, "new")
            await offers.until(1)


async def test_resume_url_that_is_gone_falls_back_to_the_gateway():
    async with mocked() as mock:
        cursors, offers = Cursors(), Offers()
        async with running(mock, Offers(), cursors=cursors):
            pass
        cursors.kept[0].resume_url = "ws://127.0.0.1:1/gateway"
        async with running(mock, offers, cursors=cursors) as run:
            assert (run.shard.identifies, run.shard.resumes) == (1, 0)


async def test_session_of_a_gateway_without_tls_is_not_taken_up_at_one_with():
    """A resume carries the token, and the port of a mock that is gone may be anybody's."""
    asked_for_slot = asyncio.Event()

    class Watched(Slots):
        async def acquire(self, shard: int) -> None:
            asked_for_slot.set()
            await asyncio.Event().wait()

    async with mocked() as old:
        cursors = Cursors()
        async with running(old, Offers(), cursors=cursors):
            pass
        real = SimpleNamespace(token="real", gateway_url="wss://127.0.0.1:1/gateway")
        async with running(real, Offers(), cursors=cursors, slots=Watched(), ready=False) as run:
            async with asyncio.timeout(5):
                await asked_for_slot.wait()
            assert (run.shard.connections, run.shard.resumes) == (0, 0)
            run.task.cancel()


async def test_direct_message_is_forwarded_to_its_owner_until_the_owner_has_it():
    author = 3 << 22
    async with mocked() as mock:
        offers, forwards, cursors = Offers(), Forwards(Outcome.WORKER_LOST), Cursors()
        async with running(mock, offers, forwards=forwards, cursors=cursors, workers=2, shards=2) as run:
            await mock.dm("psst", author_id=author)
            async with asyncio.timeout(5):
                while len(forwards.events) < 2:
                    forwards.news.clear()
                    await forwards.news.wait()
            assert [(t, e.name, r) for t, e, r in forwards.events] == [
                (author | USER_BIT, "MESSAGE", False),
                (author | USER_BIT, "MESSAGE", True),
            ]
            assert offers.events == []
            assert run.shard.counts["forwarded"] == 1


async def test_direct_message_to_a_user_of_this_worker_is_offered():
    author = 4 << 22
    async with mocked() as mock:
        offers, forwards = Offers(), Forwards()
        async with running(mock, offers, forwards=forwards, workers=2, shards=2):
            await mock.dm("psst", author_id=author)
            await offers.until(1)
            assert offers.events[0][0] == author | USER_BIT
            assert forwards.events == []


async def test_event_that_is_not_taken_does_not_end_the_shard():
    def refuse(tenant, event, done):
        raise RuntimeError("full")

    async with mocked() as mock:
        cursors = Cursors()
        async with running(mock, refuse, cursors=cursors) as run:
            await mock.say(GUILD, "x")
            last = next(iter(mock.sessions)).last
            await cursors.until(lambda cursor: cursor.sequence == last)
            assert run.shard.ready


async def test_shard_waits_for_its_cursor_and_for_the_right_to_identify():
    class Late(Cursors):
        tries = 0

        async def load(self, shards: int):
            self.tries += 1
            if self.tries == 1:
                raise StorageUnavailable("not yet")
            return await super().load(shards)

    class Refusing(Slots):
        async def acquire(self, shard: int) -> None:
            await super().acquire(shard)
            if len(self.taken) == 1:
                raise NotReady("not yet")

    async with mocked() as mock:
        cursors, slots = Late(), Refusing()
        async with running(mock, Offers(), cursors=cursors, slots=slots) as run:
            assert cursors.tries == 2
            assert slots.taken == [0, 0]
            assert run.shard.identifies == 1
