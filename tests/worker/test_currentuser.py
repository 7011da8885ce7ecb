"""What a VM knows of the bot without asking: its user, its links, the names of events."""

import msgspec
import pytest

from pytw.errors import DiscordUnavailable, TokenRefused
from pytw.eventnames import EVENT_LIST
from pytw.types import Outcome
from pytw.worker import currentuser
from pytw.worker.currentuser import learn_current_user
from pytw.worker.spec import DiscordSpec
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, template, until
from .workerlike_contract import A, B, event, spec

DISCORD = DiscordSpec(token="t", api_base="", gateway_url="", shards=1, intents=0)
LINKS = {"support_server": "s", "api_url": "a", "frontend_url": "f", "docs_url": "d"}
TELL = """
local function tell(ctx)
    local links, events = ctx.Runtime:links(), ctx.Runtime:eventlist()
    return {user = ctx.current_user, docs = links.docs_url, events = events, kept = not pcall(function() links.x = 1 end)}
end
return { E = tell }
"""


@pytest.fixture
async def worker():
    db, discord = MemoryDb(), MemoryDiscord()
    discord.raw = b'{"id":"9","bot":true,"avatar":null}'
    for tenant in (A, B):
        db.put(tenant, template("t", TELL, "E"))
    found = WorkerThread(Worker(msgspec.structs.replace(spec(), discord=DISCORD, links=LINKS), db, discord))
    await found.start()
    yield found
    await found.kill()


async def told(worker: WorkerThread, tenant: int) -> dict:
    result = await worker.dispatch_event(tenant, event())
    assert result.outcome is Outcome.OK, result.templates
    return result.templates[0].value


async def test_templates_know_the_bot_and_its_links(worker: WorkerThread):
    async def user_is_known() -> bool:
        return (await told(worker, A))["user"] is not None

    await until(user_is_known, "the user")
    for tenant in (A, B):
        found = await told(worker, tenant)
        assert found["user"] == {"id": "9", "bot": True}
        assert (found["docs"], found["events"], found["kept"]) == ("d", list(EVENT_LIST), True)


async def test_engine_that_takes_the_place_of_another_knows_it_too(worker: WorkerThread):
    vms = worker.worker.vms
    await until(lambda: vms._current_user is not None, "the user")
    for index in range(2):
        vms._replace(index)
    for tenant in (A, B):
        assert (await told(worker, tenant))["user"]["id"] == "9"


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(currentuser, "RETRY_FIRST_S", 0.0)


@pytest.mark.usefixtures("no_waiting")
class TestLearning:
    async def test_discord_that_is_away_is_asked_again(self):
        discord, heard = MemoryDiscord(), []
        answers = [DiscordUnavailable("away")] * 3

        async def request_raw(method: str, path: str, **_) -> bytes:
            if answers:
                raise answers.pop()
            return b"{}"

        discord.request_raw = request_raw
        await learn_current_user(discord, heard.append)
        assert heard == [b"{}"]

    async def test_it_ends_after_a_bounded_number_of_tries(self, monkeypatch, caplog):
        monkeypatch.setattr(currentuser, "CURRENT_USER_TRIES_MAX", 4)
        discord = MemoryDiscord()
        discord.failure = DiscordUnavailable("away")
        await learn_current_user(discord, pytest.fail)
        assert len(discord.requests) == 4
        assert "ctx.current_user stays nil: away" in caplog.text

    async def test_a_refusal_is_final(self, caplog):
        discord = MemoryDiscord()
        discord.failure = TokenRefused("no")
        await learn_current_user(discord, pytest.fail)
        assert len(discord.requests) == 1
        assert "ctx.current_user stays nil: no" in caplog.text
