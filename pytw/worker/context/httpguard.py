"""Where a template's HTTP request may go: which URLs, which names, which addresses (spec luau-api 4.4, sandbox H01-H03).

A name says nothing about an address, so both are checked: the URL before anything happens, and every address that its
name resolves to before the connection, which then goes to one of those and to no other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address

from yarl import URL

from pytw.errors import Forbidden, RequestError
from pytw.limits import HTTP_URL_BYTES_MAX

Address = IPv4Address | IPv6Address

ANY_DOMAIN = "*"
NOT_PUBLIC = "localhost resolution is not allowed"
_PORTS = {"http": 80, "https": 443}
_LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
_LABELS = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII)
_UNSEEN = re.compile(r"[\x00-\x20\x7f\\]")

#: Of what `is_global` takes for public: where tunnels end in private addresses, and where clouds answer only their own.
_NOT_FOR_TEMPLATES = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # a cloud's own services, at a public address
            "192.0.0.0/24",  # protocol assignments, metadata of another one
            "192.88.99.0/24",  # 6to4 relays
            "198.18.0.0/15",
            "100.64.0.0/10",
            "2001::/23",  # Teredo, ORCHID, benchmarks
            "2001:db8::/32",
            "2002::/16",  # 6to4: any IPv4 address in other clothes
            "3fff::/20",
        ),
    )
)
#: All that is routed. Outside are mapped and translated IPv4 addresses, and everything local.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could be asked at *address* as well."""
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_private:
        return False
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return False
    return not any(address in network for network in _NOT_FOR_TEMPLATES if network.version == address.version)


class HttpGuard:
    """The rules for one deployment.

    Args:
        domains: reachable with all their subdomains; `ANY_DOMAIN` among them is every public host.
        allowed: what an address must satisfy besides.
    """

    def __init__(self, domains: Iterable[str], *, allowed: Callable[[Address], bool] = is_public) -> None:
        self._domains = tuple(domain.lower().rstrip(".") for domain in domains)
        self._allowed = allowed

    def url(self, text: str) -> URL:
        """*text* as the very object that the connection is made from, so that nobody reads it in another way.

        Raises: RequestError: it is no URL for a request. Forbidden: it leads where templates may not go.
        """
        if len(text.encode(errors="replace")) > HTTP_URL_BYTES_MAX:
            raise RequestError(f"the URL is longer than {HTTP_URL_BYTES_MAX} bytes")
        if _UNSEEN.search(text):
            raise RequestError("a URL has no spaces, control characters or backslashes")
        # Its tables are large, and whoever reads the URL again might read it in another way.
        if not _authority(text).isascii():
            raise RequestError("write the URL's host in ASCII: a name in other letters begins with xn-- there")
        try:
            url = URL(text)
            host, port = url.raw_host, url.explicit_port
        except (ValueError, IndexError):  # the latter is yarl's word for a host of empty brackets
            raise RequestError("not a URL") from None
        if url.scheme not in _PORTS:
            raise RequestError("only http:// and https:// URLs can be requested")
        if not host:
            raise RequestError("the URL has no host")
        # In the text, since an empty user name is gone from what was parsed.
        if url.raw_user is not None or url.raw_password is not None or "@" in _authority(text):
            raise RequestError("a URL with a user name or password cannot be requested: use the Authorization header")
        if port is not None and port != _PORTS[url.scheme]:
            raise RequestError("a URL with a port cannot be requested")
        self._host(host.lower())
        return url.with_fragment(None)

    def _host(self, host: str) -> None:
        name = host.removesuffix(".")
        if name in _LOCAL_NAMES or name.endswith(".localhost"):
            raise Forbidden(NOT_PUBLIC)
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            self._name(name)
        else:
            self.address(host)
            if ANY_DOMAIN not in self._domains:
                raise Forbidden(f"Domain {address} is not whitelisted")

    def _name(self, name: str) -> None:
        labels = name.split(".")
        if not _LABELS.fullmatch(name) or len(name) > 253:
            raise RequestError("the URL's host is not a name")
        # The system's resolver would read 127.1 or 0x7f000001 as an address; with a name such a label cannot end.
        if labels[-1].isdigit() or labels[-1].startswith("0x"):
            raise RequestError("the URL's host is neither a name nor an address in full")
        if ANY_DOMAIN in self._domains and len(labels) > 1:
            return
        if not any(name == domain or name.endswith("." + domain) for domain in self._domains):
            raise Forbidden(f"Domain {name} is not whitelisted")

    def address(self, text: str) -> None:
        """Raises: Forbidden: no connection may be made to this address."""
        try:
            # With a zone it is meant for one link.
            allowed = "%" not in text and self._allowed(ipaddress.ip_address(text))
        except ValueError:
            allowed = False
        if not allowed:
            raise Forbidden(NOT_PUBLIC)


def _authority(text: str) -> str:
    return re.split(r"[/?#]", text.partition("//")[2], maxsplit=1)[0]
