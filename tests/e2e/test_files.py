"""Templates' files and what they publish, through worker processes, the master's stores and the API, over a restart."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.e2e.server import serving

pytestmark = pytest.mark.slow

GUILD, OTHER = 1 << 22, 2 << 22
WRITES = """
return { MESSAGE = function(ctx)
    ctx.ObjectStorage:upload_file("folder/file.html", buffer.fromstring("<b>" .. string.rep("x", 500000)))
    ctx.GlobalKV:create({key = "key", version = 1, short = "s", scope = "e2e", public_data = true, data = {n = 1}})
    local life = require("@antiraid/datetime").timedelta_hours(1)
    return ctx.ObjectStorage:get_file_url("folder/file.html", life)
end }
"""
READS = """
return { MESSAGE = function(ctx)
    local found = ctx.ObjectStorage:list_files()
    local ok, told = pcall(function() return ctx.GlobalKV:delete("key", 1, "e2e") end)
    return {#found, found[1] and found[1].key or "none", tostring(told)}
end }
"""


def value(answer: tuple[int, dict]) -> object:
    status, body = answer
    assert status == 200, body
    (ran,) = [result for result in body["templates"] if result["template"] == "t"]
    assert ran["outcome"] == "ok", ran
    return ran["value"]


@pytest.mark.parametrize("flags", [("--process-workers", "2"), ("--worker-type", "threadpool")])
def test_files_and_their_urls_outlive_the_server(flags: tuple[str, ...]) -> None:
    with serving(*flags) as server:
        server.put(GUILD, "t", WRITES)
        url = urlsplit(str(value(server.event(GUILD))))
        address = f"{url.path}?{url.query}"
        assert url.port == server.port
        status, body = server.call("GET", address)
        assert (status, len(body), body[:4]) == (200, 500_003, b"<b>x")
        assert server.call("GET", address.replace("expires=", "expires=9"))[0] == 403
        server.put(GUILD, "t", READS)
        server.put(OTHER, "t", READS)
        # The other tenant is in another worker, and neither has the files nor may take back what is published.
        assert value(server.event(OTHER)) == [0, "none", "you have no version 1 of key"]
        assert server.end()[0] == 0
        with serving(*flags, data_dir=str(server.data_dir)) as again:
            assert again.call("GET", address)[0] == 200
            assert value(again.event(GUILD)) == [1, "folder/file.html", "nil"]
