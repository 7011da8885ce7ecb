"""`http.send`: where it may go, and how often."""

import asyncio
import ipaddress
import ssl

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pytw.errors import Forbidden, LimitExceeded, Overloaded, PytwError, Unavailable
from pytw.limits import HTTP_IN_FLIGHT_MAX, HTTP_QUEUE_MAX
from pytw.worker.context import RateLimits, http
from pytw.worker.context.http import Http
from pytw.worker.context.httpguard import HttpGuard, is_public

from .fakes import call, results, until
from .httprig import Internet, answering, ok, serving, web_site


@pytest.fixture
async def site():
    async with web_site() as found:
        yield found


async def test_every_address_of_a_name_must_be_public(site: Internet):
    site.answers["good.test"] = [["127.0.0.1", "10.0.0.1"]]
    assert await site.refused(Forbidden) == "localhost resolution is not allowed"
    assert site.seen == []


@pytest.mark.parametrize(
    "address", ["127.0.0.2", "::1", "169.254.169.254", "::ffff:127.0.0.1", "0.0.0.0", "fe80::1%lo", "100.64.0.1"]
)
async def test_names_of_addresses_inside_are_refused(site: Internet, address: str):
    site.answers["good.test"] = [[address]]
    assert await site.refused(Forbidden) == "localhost resolution is not allowed"
    assert site.seen == []


async def test_connection_goes_to_the_address_that_was_checked():
    """DNS rebinding: the first answer passes, a second one would lead inside. There is no second question."""
    async with serving(answering(ok(b"inside"))) as internet:
        outside = ipaddress.ip_address("127.0.0.2")
        guard = HttpGuard(["good.test"], allowed=lambda address: address == outside)
        internet.http = Http(guard=guard, lookup=internet.lookup)
        # Nobody listens there: whoever asked again would find the listener.
        internet.answers["good.test"] = [["127.0.0.2"], ["127.0.0.1"]]
        await internet.refused(Unavailable)
        assert internet.lookups == ["good.test"]
        assert internet.connections == 0


async def test_address_that_comes_past_the_resolver_is_refused_at_the_socket(site: Internet):
    """A second gate: also where the client never asks a resolver."""
    site.http = Http(guard=HttpGuard(["*"], allowed=is_public), lookup=site.lookup)
    with pytest.raises(Forbidden):
        site.http._fetch._socket((2, 1, 6, "", ("127.0.0.1", site.port)))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_given_and_not_followed(status: int):
    head = b"HTTP/1.1 %d Moved\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n" % status
    async with serving(answering(head)) as internet:
        answer = await internet.ask()
        assert answer["status"] == status
        assert ["location", "http://127.0.0.1/"] in answer["headers"]
        assert internet.connections == 1


async def test_name_is_what_tls_asks_for():
    """The connection goes to an address, and its certificate is still the name's."""
    names = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0, ssl=context)
    internet = Internet()
    internet.port = server.sockets[0].getsockname()[1]
    detail = await internet.refused(Unavailable, "https://a.good.test/")
    assert detail.startswith("a.good.test cannot be reached: ")
    assert names == ["a.good.test"]
    server.close()


HOSTS = st.one_of(
    st.ip_addresses().map(lambda a: f"[{a}]" if a.version == 6 else str(a)),
    st.from_regex(r"[a-z0-9.%@:\[\]-]{1,30}", fullmatch=True),
    st.sampled_from(["localhost", "127.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:7f00:1]", "127.0.0.1:80", "a@b"]),
)


def _is_public_address(host: str) -> bool:
    try:
        return is_public(ipaddress.ip_address(host.strip("[].")))
    except ValueError:
        return False


async def test_listener_on_loopback_never_sees_a_connection():
    """Whatever the URL and whatever its name resolves to, short of an address that Python calls global."""
    async with serving(answering(ok(b""))) as internet:
        loop = asyncio.get_running_loop()
        addresses: list[str] = []

        async def lookup(host: str, port: int) -> list[tuple[str, int]]:
            return [(address, internet.port) for address in addresses]

        product = Http(guard=HttpGuard(["*"]), lookup=lookup)

        @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(host=HOSTS, found=st.lists(st.ip_addresses(), min_size=1, max_size=3))
        def no_connection(host: str, found: list) -> None:
            # A test asks nobody on the internet. That these are public is test_httpguard's.
            assume(not _is_public_address(host))
            addresses[:] = [str(address) for address in found] + ["127.0.0.1"]
            asked = call("http.send", {"method": "GET", "url": f"http://{host}/", "timeout_ms": 1})
            sent = asyncio.run_coroutine_threadsafe(results(product.operations(), asked), loop)
            with pytest.raises(PytwError):
                sent.result(10)

        await asyncio.to_thread(no_connection)
        assert internet.connections == 0


async def test_a_tenant_has_six_under_way_and_32_that_wait():
    arrived, go = [], asyncio.Event()

    async def handler(head, reader, writer) -> None:
        arrived.append(head)
        await go.wait()
        writer.write(ok(b""))
        await writer.drain()

    async with serving(handler) as internet:
        asked = [asyncio.create_task(internet.ask()) for _ in range(HTTP_IN_FLIGHT_MAX + HTTP_QUEUE_MAX)]
        await until(lambda: len(arrived) == HTTP_IN_FLIGHT_MAX, "six requests")
        assert "6 may run and 32 wait" in await internet.refused(LimitExceeded)
        other = asyncio.create_task(internet.ask(tenant=2))
        await until(lambda: len(arrived) == HTTP_IN_FLIGHT_MAX + 1, "another tenant's")
        go.set()
        await asyncio.gather(*asked, other)
        assert internet.http._lanes == {} and internet.http._held == 0


async def test_a_worker_has_a_bound_too(monkeypatch, site: Internet):
    monkeypatch.setattr(http, "HTTP_REQUESTS_MAX", 0)
    assert "in this worker" in await site.refused(Overloaded)


async def test_a_request_that_is_given_up_leaves_nothing():
    async def handler(head, reader, writer) -> None:
        await asyncio.Event().wait()

    async with serving(handler) as internet:
        asked = asyncio.create_task(internet.ask())
        await until(lambda: internet.connections, "the connection")
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert internet.http._lanes == {} and internet.http._held == 0


def test_rate_comes_first_and_no_capability_is_asked():
    operation = Http().operations()["http.send"]
    assert operation.need is None
    limited = RateLimits(clock_ns=lambda: 0)
    for _ in range(3):
        limited.spend(1, *operation.bucket)
    with pytest.raises(LimitExceeded, match="Global ratelimit hit for bucket 'send'"):
        limited.spend(1, *operation.bucket)


async def test_default_domains_are_discords_files():
    from pytw.worker.spec import WorkerSpec

    product = Http(WorkerSpec().http_domains)
    with pytest.raises(Forbidden, match=r"Domain example\.org is not whitelisted"):
        await results(product.operations(), call("http.send", {"method": "GET", "url": "https://example.org/"}))
    product._guard.url("https://cdn.discordapp.com/x")


async def test_system_resolver_knows_this_machine():
    """The name is allowed here, so that what is refused is what the system says it means."""
    product = Http(guard=HttpGuard(["*"]))
    lookup = product._system
    assert {address for address, _ in await lookup("localhost", 80)} & {"127.0.0.1", "::1"}
    product.close()
