"""The client's address: only trusted hops are believed, whatever is written into X-Forwarded-For."""

import tracemalloc
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.api.client_address import (
    HOPS_MAX,
    UNKNOWN,
    address_key,
    client_address,
    is_trusted,
    scope_address,
)

TRUSTED = tuple(map(ip_network, ("10.0.0.0/8", "127.0.0.0/8", "::1/128", "fd00::/8")))
CLIENT = "203.0.113.7"

CASES = [
    ("no proxy: the header is a client's invention", CLIENT, ["198.51.100.1"], CLIENT),
    ("no header", "10.0.0.1", [], "10.0.0.1"),
    ("no peer", None, [CLIENT], "unknown"),
    ("a peer that is no address", "testclient", [CLIENT], "testclient"),
    ("one proxy", "10.0.0.1", [CLIENT], CLIENT),
    ("two proxies", "10.0.0.1", [f"{CLIENT}, 10.9.9.9"], CLIENT),
    ("forged to the left", "10.0.0.1", [f"1.1.1.1, 10.0.0.2, {CLIENT}"], CLIENT),
    ("forged, in a line of its own", "10.0.0.1", ["1.1.1.1", CLIENT], CLIENT),
    ("lines in their order", "10.0.0.1", [f"1.1.1.1, {CLIENT}", "10.0.0.3"], CLIENT),
    ("only proxies", "10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    ("garbage from the proxy", "10.0.0.1", ["unknown"], "10.0.0.1"),
    ("garbage behind a proxy", "10.0.0.1", [f"{CLIENT}, _hidden, 10.0.0.2"], "10.0.0.2"),
    ("an empty hop", "10.0.0.1", [f"{CLIENT}, "], "10.0.0.1"),
    ("IPv4 with a port", "10.0.0.1", [f"{CLIENT}:51234"], CLIENT),
    ("IPv4 with a bad port", "10.0.0.1", [f"{CLIENT}:x"], "10.0.0.1"),
    ("IPv6", "::1", ["2001:DB8::7"], "2001:db8::7"),
    ("IPv6 in brackets", "::1", ["[2001:db8::7]"], "2001:db8::7"),
    ("IPv6 in brackets with a port", "::1", ["[2001:db8::7]:443"], "2001:db8::7"),
    ("IPv6 with an open bracket", "::1", ["[2001:db8::7"], "::1"),
    ("IPv6 with text behind the bracket", "::1", ["[2001:db8::7]x"], "::1"),
    ("IPv6 with a zone", "::1", ["fe80::1%eth0"], "fe80::1"),
    ("IPv4-mapped client", "10.0.0.1", [f"::ffff:{CLIENT}"], CLIENT),
    ("IPv4-mapped proxy", "::ffff:10.0.0.1", [CLIENT], CLIENT),
    ("IPv4-mapped client without a proxy", f"::ffff:{CLIENT}", ["1.1.1.1"], CLIENT),
    ("leading zeros", "10.0.0.1", ["010.0.0.1"], "10.0.0.1"),
    ("other digits", "10.0.0.1", ["١.1.1.1"], "10.0.0.1"),
    ("an endless hop", "10.0.0.1", ["1" * 60_000], "10.0.0.1"),
    ("an endless chain of trusted hops", "10.0.0.1", [CLIENT + ", 10.0.0.2" * 9_999], "10.0.0.2"),
]


@pytest.mark.parametrize(("peer", "forwarded", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_cases(peer: str | None, forwarded: list[str], expected: str) -> None:
    """The client is the last address that no trusted proxy has."""
    assert client_address(peer, forwarded, TRUSTED) == expected


def test_without_trusted_proxies() -> None:
    """Nobody is believed."""
    assert client_address("127.0.0.1", [CLIENT], ()) == "127.0.0.1"


def test_keys() -> None:
    """An IPv6 client cannot choose among 2^64 keys; IPv4 forms of one address are one key."""
    assert address_key("2001:db8::1") == address_key("2001:DB8:0:0:ffff::2") == "2001:db8::/64"
    assert address_key("2001:db8:0:1::1") != address_key("2001:db8::1")
    assert address_key("fe80::1%a") == address_key("fe80::1%b")
    assert address_key(f"::ffff:{CLIENT}") == address_key(CLIENT) == CLIENT
    assert address_key("unknown") == "unknown"


def test_is_trusted() -> None:
    """A peer without an address is not trusted."""
    assert is_trusted("::ffff:10.0.0.9", TRUSTED)
    assert not is_trusted(CLIENT, TRUSTED)
    assert not is_trusted(None, TRUSTED)
    assert not is_trusted("proxy", TRUSTED)


@given(st.lists(st.text(max_size=40) | st.ip_addresses().map(str), max_size=4), st.ip_addresses())
def test_forged(lines: list[str], client: object) -> None:
    """What a client writes changes nothing: the proxy appends the address that it saw."""
    seen = client_address("10.0.0.1", [*lines, str(client)], TRUSTED)
    honest = client_address("10.0.0.1", [str(client)], TRUSTED)
    trusted = any(ip_address(honest) in network for network in TRUSTED)
    assert trusted or seen == honest


@given(st.text(max_size=80), st.lists(st.text(max_size=200), max_size=HOPS_MAX + 2))
def test_garbage(peer: str, lines: list[str]) -> None:
    """Any text has an address and a key."""
    assert address_key(client_address(peer, lines, TRUSTED))


def test_long_garbage_is_not_kept() -> None:
    """A proxy that passes the header on unread lets a client choose 60 KB of text; none of it stays."""
    tracemalloc.start()
    for number in range(500):
        client_address("10.0.0.1", [f"{number}" * 20_000], TRUSTED)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 1_000_000


@pytest.mark.parametrize("scope", [{}, {"client": None}])
def test_no_peer(scope: Any) -> None:
    """A server that names no client, as ASGI allows, has one client for all."""
    assert scope_address(scope) == UNKNOWN
