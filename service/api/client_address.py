"""The client's address behind trusted proxies: X-Forwarded-For, read from the right.

    peer trusted? -- no --> the peer is the client
     | yes
    last hop of X-Forwarded-For, the one before it, ...: the first that is not trusted is the client

Whoever sends a request may write anything into X-Forwarded-For; each proxy appends the address that it saw.
So a hop is believed only if the address after it is a trusted proxy's.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from litestar.types import Scope

UNKNOWN = "unknown"  # no peer, as on a Unix socket
HOPS_MAX = 16  # no chain of proxies is longer; a longer header is a client's invention
ADDRESS_CHARS_MAX = 64
IPV6_PREFIX = 64  # what one household or one machine has: all of its addresses are one client

Address = IPv4Address | IPv6Address
# This machine, private networks, and what platforms put between their proxies and a service.
NEARBY_V4 = (
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12"),
    *("192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"),
)
NEARBY_V6 = ("::/64", "fc00::/7", "fe80::/10")
NEARBY: tuple[IPv4Network | IPv6Network, ...] = (*map(IPv4Network, NEARBY_V4), *map(IPv6Network, NEARBY_V6))


def client_address(
    peer: str | None, forwarded: Sequence[str], trusted: Sequence[IPv4Network | IPv6Network]
) -> str:
    """Return the address of the client, or of the last trusted proxy if what it reports is no address.

    `peer`: the other end of the connection. `forwarded`: all X-Forwarded-For lines, in their order.
    """
    address = _parse(peer or "")
    if address is None:
        return peer or UNKNOWN
    if _is_trusted(address, trusted):
        for hop in _from_the_right(forwarded):
            reported = _parse(hop)
            if reported is None:
                break
            address = reported
            if not _is_trusted(address, trusted):
                break
    return str(address)


def address_key(address: str) -> str:
    """Return the name under which an address is counted: an IPv6 address counts with its /64 network."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, IPV6_PREFIX), strict=False))
    return address if parsed is None else str(parsed)


def scope_address(scope: Scope) -> str:
    """Return the key of the client of an ASGI request, whose address the edge has put right."""
    client = scope.get("client")
    return address_key(client[0]) if client else UNKNOWN


def is_nearby(key: str) -> bool:
    """Return whether the key of an address is one of this machine or of a private network, or is unknown."""
    address = _parse(key.partition("/")[0])
    return address is None or _is_trusted(address, NEARBY)


def is_trusted(peer: str | None, trusted: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Return whether the other end of a connection is a trusted proxy."""
    address = _parse(peer or "")
    return address is not None and _is_trusted(address, trusted)


def _is_trusted(address: Address, trusted: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in trusted)


def _from_the_right(lines: Sequence[str]) -> Iterator[str]:
    """Yield the hops, the nearest proxy's first."""
    left = HOPS_MAX
    for line in reversed(lines):
        for hop in reversed(line.rsplit(",", left)[-left:]):
            yield hop.strip()
            left -= 1
        if left <= 0:
            return


def _parse(text: str) -> Address | None:
    """Return the address without brackets, port and zone, an IPv4-mapped one as IPv4; None for garbage."""
    return _parse_short(text) if len(text) <= ADDRESS_CHARS_MAX else None  # what is long is not kept


@lru_cache(maxsize=4096)
def _parse_short(text: str) -> Address | None:
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or not (port == "" or _is_port(port)):
            return None
    elif text.count(":") == 1:  # one colon: an IPv4 address and its port
        text, _, port = text.partition(":")
        if not _is_port(f":{port}"):
            return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))  # the latter has no zone
    return address


def _is_port(text: str) -> bool:
    return text[:1] == ":" and text[1:].isascii() and text[1:].isdecimal() and len(text) <= len(":65535")
