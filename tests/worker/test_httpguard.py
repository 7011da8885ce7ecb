"""`HttpGuard`: no URL and no address leads to a machine that the internet cannot ask."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytw.errors import Forbidden, PytwError, RequestError
from pytw.limits import HTTP_URL_BYTES_MAX
from pytw.worker.context.httpguard import HttpGuard, is_public

CDN = HttpGuard(["cdn.discordapp.com"])
ANY = HttpGuard(["*"])
NETWORKS = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "168.63.129.16/32",
    "::/96",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:db8::/32",
    "2002::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]


@pytest.mark.parametrize("network", NETWORKS)
def test_addresses_that_are_not_everybodys_are_refused(network: str):
    found = ipaddress.ip_network(network)
    for address in (found.network_address, found.network_address + (found.num_addresses - 1) // 2, found[-1]):
        assert not is_public(address), address
        with pytest.raises(Forbidden):
            ANY.address(str(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "162.159.135.233", "2606:4700::6810:84e5", "2a00:1450::5"])
def test_public_addresses_are_allowed(address: str):
    ANY.address(address)


@pytest.mark.parametrize(
    "inner", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "100.100.100.200", "8.8.8.8"]
)
@pytest.mark.parametrize(
    "clothes",
    [
        lambda v: ipaddress.IPv6Address((0xFFFF << 32) | v),
        lambda v: ipaddress.IPv6Address(v),
        lambda v: ipaddress.IPv6Address((0x2002 << 112) | (v << 80) | 1),
        lambda v: ipaddress.IPv6Address((0x0064FF9B << 96) | v),
        lambda v: ipaddress.IPv6Address((0x20010000 << 96) | (v ^ 0xFFFFFFFF)),
    ],
    ids=["mapped", "compatible", "6to4", "nat64", "teredo"],
)
def test_ipv4_addresses_in_the_clothes_of_ipv6_are_refused(inner: str, clothes):
    with pytest.raises(Forbidden):
        ANY.address(str(clothes(int(ipaddress.IPv4Address(inner)))))


@given(st.ip_addresses())
def test_no_address_is_allowed_that_python_does_not_call_global(address):
    if is_public(address):
        assert address.is_global
        assert not (address.is_private or address.is_loopback or address.is_link_local or address.is_multicast)
        assert not (address.is_reserved or address.is_unspecified)
        assert getattr(address, "ipv4_mapped", None) is None
        assert getattr(address, "sixtofour", None) is None
        assert getattr(address, "teredo", None) is None


@pytest.mark.parametrize("text", ["", "x", "fe80::1%lo", "2606:4700::1%eth0", "127.0.0.1.", "1.1.1", "0x7f.1"])
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(Forbidden):
        ANY.address(text)


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.discordapp.com/a/b?c=d",
        "http://cdn.discordapp.com",
        "HTTPS://CDN.DiscordApp.com/x",
        "https://a.b.cdn.discordapp.com/",
        "https://cdn.discordapp.com./",
        "https://cdn.discordapp.com:443/",
        "http://cdn.discordapp.com:80/",
        "https://cdn.discordapp.com/%0d%0a?q=%00",
    ],
)
def test_whitelisted_domains_and_their_subdomains_are_allowed(url: str):
    assert CDN.url(url).raw_host.rstrip(".").endswith("cdn.discordapp.com")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://example.org/", "Domain example.org is not whitelisted"),
        ("https://xcdn.discordapp.com/", "Domain xcdn.discordapp.com is not whitelisted"),
        ("https://cdn.discordapp.com.evil.test/", "Domain cdn.discordapp.com.evil.test is not whitelisted"),
        ("https://discordapp.com/", "Domain discordapp.com is not whitelisted"),
        ("https://8.8.8.8/", "Domain 8.8.8.8 is not whitelisted"),
        ("https://evil.test/cdn.discordapp.com", "Domain evil.test is not whitelisted"),
        ("https://evil.test?.cdn.discordapp.com", "Domain evil.test is not whitelisted"),
        ("https://evil.test#.cdn.discordapp.com", "Domain evil.test is not whitelisted"),
        ("https://xn--cdn.discordapp.com/", "Domain xn--cdn.discordapp.com is not whitelisted"),
        ("http://localhost/", "localhost resolution is not allowed"),
        ("http://LOCALHOST./", "localhost resolution is not allowed"),
        ("http://a.localhost/", "localhost resolution is not allowed"),
        ("http://localhost.localdomain/", "localhost resolution is not allowed"),
        ("http://127.0.0.1/", "localhost resolution is not allowed"),
        ("http://169.254.169.254/latest/meta-data/", "localhost resolution is not allowed"),
        ("http://[::1]/", "localhost resolution is not allowed"),
        ("http://[::ffff:127.0.0.1]/", "localhost resolution is not allowed"),
    ],
)
def test_other_hosts_are_refused_in_the_references_words(url: str, text: str):
    with pytest.raises(Forbidden) as refused:
        CDN.url(url)
    assert refused.value.detail == text


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "only http"),
        ("cdn.discordapp.com/x", "only http"),
        ("//cdn.discordapp.com/x", "only http"),
        ("ftp://cdn.discordapp.com/x", "only http"),
        ("file:///etc/passwd", "only http"),
        ("data:text/plain,x", "only http"),
        ("http://\u24dbocalhost/", "xn--"),
        ("http://\u2460\u2461\u2466.0.0.1/", "xn--"),
        ("http://b\u00fccher.example/", "xn--"),
        ("http:///x", "no host"),
        ("http://", "host"),
        ("https://cdn.discordapp.com:8443/", "a port"),
        ("https://cdn.discordapp.com:80/", "a port"),
        ("https://cdn.discordapp.com:x/", "not a URL"),
        ("https://cdn.discordapp.com:99999/", "not a URL"),
        ("https://u:p@cdn.discordapp.com/", "user name"),
        ("https://u@cdn.discordapp.com/", "user name"),
        ("https://:p@cdn.discordapp.com/", "user name"),
        ("https://@cdn.discordapp.com/", "user name"),
        ("https://cdn.discordapp.com@evil.test/", "user name"),
        ("https://cdn.discordapp.com\\@evil.test/", "backslashes"),
        ("https://evil.test\\.cdn.discordapp.com/", "backslashes"),
        ("https://cdn.discordapp.com/\r\nHost: x", "control characters"),
        (" https://cdn.discordapp.com/", "spaces"),
        ("https://cdn.discord\tapp.com/", "control characters"),
        ("https://cdn.discordapp.com/\0", "control characters"),
        ("https://[::1/", "not a URL"),
        ("https://[]/", "not a URL"),
        ("https://[]@:80/", "not a URL"),
        ("https://cdn.discordapp.com../", "not a name"),
        ("https://.cdn.discordapp.com/", "not a name"),
        ("https://a..cdn.discordapp.com/", "not a name"),
        ("https://%63dn.discordapp.com/", ""),
        ("https://cdn.discordapp.com/" + "x" * HTTP_URL_BYTES_MAX, "longer than"),
    ],
)
def test_what_is_no_plain_url_is_refused(url: str, text: str):
    with pytest.raises(RequestError) as refused:
        CDN.url(url)
    assert text in refused.value.detail


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.0.0.1.5", "127.1", "1.2.3", "0x7f.0.0.1", "1.0x1", "intranet", "db"]
)
def test_any_public_host_is_neither_half_an_address_nor_a_name_of_the_house(host: str):
    with pytest.raises(PytwError):
        ANY.url(f"http://{host}/")


def test_any_public_host():
    for host in ("example.org", "8.8.8.8", "[2606:4700::6810:84e5]", "xn--bcher-kva.example"):
        ANY.url(f"https://{host}/x")


HOSTS = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda a: f"[{a}]"),
    st.from_regex(r"[a-z0-9.%@:\[\]-]{1,30}", fullmatch=True),
    st.text(max_size=20),
    st.sampled_from(["localhost", "cdn.discordapp.com", "a.cdn.discordapp.com", "127.0.0.1", "[::1]"]),
)


@given(st.sampled_from(["http", "https", "ftp", "HTTP"]), HOSTS, st.text(max_size=20))
def test_a_url_that_passes_leads_to_its_domain_only(scheme: str, host: str, rest: str):
    """Read again by another parser, it says the same."""
    from urllib.parse import urlsplit

    try:
        url = CDN.url(f"{scheme}://{host}{rest}")
    except PytwError:
        return
    other = urlsplit(str(url))
    assert other.hostname is not None
    assert other.hostname == url.raw_host
    name = other.hostname.removesuffix(".")
    assert name == "cdn.discordapp.com" or name.endswith(".cdn.discordapp.com")
    assert other.username is None and other.password is None
    assert other.port in (None, 80, 443)


@given(HOSTS)
def test_any_host_that_passes_and_is_an_address_is_public(host: str):
    try:
        url = ANY.url(f"http://{host}/")
    except PytwError:
        return
    try:
        address = ipaddress.ip_address(url.raw_host.removesuffix("."))
    except ValueError:
        return
    assert address.is_global and not address.is_multicast
