"""The handshake of a WebSocket, as functions of its head."""

import pytest

from dub5.service.api.socket_handshake import (
    SocketHandshake,
    is_small,
    is_upgrade,
    read_handshake,
    upgrade_head,
)
from dub5.service.errors import GatewayError, InvalidRequest, OriginNotAllowed

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
OFFER = (
    (b"host", b"x"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", KEY),
)
LISTED = "https://listed.example"


def without(name: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(line for line in OFFER if line[0] != name)


@pytest.mark.parametrize(
    ("method", "target", "version", "headers", "expected"),
    [
        (b"GET", b"/v1/ws", "1.1", OFFER, True),
        (b"GET", b"/v1/ws?x=%20", "1.1", OFFER, True),
        (b"GET", b"/v1/ws", "1.1", (*without(b"upgrade"), (b"upgrade", b" WebSocket ")), True),
        (b"GET", b"/v1/ws", "1.1", (*OFFER, (b"content-length", b"0")), True),
        (b"GET", b"/v1/ws", "1.1", (*OFFER, (b"sec-websocket-protocol", b"dub5.v1, ticket.a-b_c~d")), True),
        (b"GET", b"/v1/ws", "1.1", (*OFFER, (b"sec-websocket-extensions", b"permessage-deflate; q")), True),
        (b"POST", b"/v1/ws", "1.1", OFFER, False),
        (b"GET", b"/v1/ws", "1.0", OFFER, False),
        (b"GET", b"/v1/ws/", "1.1", OFFER, False),
        (b"GET", b"/v1/%77s", "1.1", OFFER, False),
        (b"GET", b"/v1/ws?\xe9", "1.1", OFFER, False),
        (b"GET", b"/v1/chat/completions", "1.1", OFFER, False),
        (b"GET", b"/v1/ws", "1.1", (*without(b"upgrade"), (b"upgrade", b"h2c, websocket")), False),
        (b"GET", b"/v1/ws", "1.1", (*OFFER, (b"upgrade", b"websocket")), False),
        (b"GET", b"/v1/ws", "1.1", without(b"sec-websocket-version"), False),
        (
            b"GET",
            b"/v1/ws",
            "1.1",
            (*without(b"sec-websocket-version"), (b"sec-websocket-version", b"8")),
            False,
        ),
        (b"GET", b"/v1/ws", "1.1", without(b"sec-websocket-key"), False),
        (b"GET", b"/v1/ws", "1.1", (*OFFER, (b"sec-websocket-key", KEY)), False),
        (
            b"GET",
            b"/v1/ws",
            "1.1",
            (*without(b"sec-websocket-key"), (b"sec-websocket-key", b"c2hvcnQ=")),
            False,
        ),
        (b"GET", b"/v1/ws", "1.1", (*without(b"sec-websocket-key"), (b"sec-websocket-key", b"\xe9")), False),
        (b"GET", b"/v1/ws", "1.1", (*OFFER, (b"content-length", b"5")), False),
        (b"GET", b"/v1/ws", "1.1", (*OFFER, (b"transfer-encoding", b"chunked")), False),
        (b"GET", b"/v1/ws", "1.1", (*OFFER, (b"origin", b"http://a"), (b"origin", b"http://b")), False),
        (b"GET", b"/v1/ws", "1.1", (*OFFER, (b"sec-websocket-protocol", b"a b")), False),
        (b"GET", b"/v1/ws", "1.1", (*OFFER, (b"sec-websocket-protocol", b"")), False),
        (b"GET", b"/v1/ws", "1.1", (), False),
    ],
)
def test_what_leaves_http(
    method: bytes, target: bytes, version: str, headers: tuple[tuple[bytes, bytes], ...], expected: bool
) -> None:
    """Only a whole handshake for the one path leaves HTTP: the library has nothing to refuse in its words."""
    assert is_upgrade(method, target, version, headers) is expected


def test_the_size_of_a_head() -> None:
    """A head is as small as the library takes it."""
    assert is_small(b"/v1/ws", OFFER)
    assert not is_small(b"/v1/ws?" + b"a" * 9000, OFFER)
    assert not is_small(b"/v1/ws", (*OFFER, (b"cookie", b"a" * 9000)))
    assert not is_small(b"/v1/ws", OFFER * 26)


def test_the_head_that_is_handed_over() -> None:
    """What is handed over offers WebSockets alone, and keeps every other header."""
    head = upgrade_head(b"/v1/ws?x", (*without(b"connection"), (b"connection", b"keep-alive, Upgrade, h2")))
    assert head.startswith(
        b"GET /v1/ws?x HTTP/1.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\nhost: x\r\n"
    )
    assert b"h2" not in head and head.endswith(b": " + KEY + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("headers", "subprotocols", "expected"),
    [
        ({}, [], SocketHandshake(None, "")),
        ({}, ["dub5.v1"], SocketHandshake("dub5.v1", "")),
        ({}, ["other", "dub5.v1"], SocketHandshake("dub5.v1", "")),
        ({}, ["other"], InvalidRequest),
        ({}, ["ticket.abc"], InvalidRequest),
        ({}, ["dub5.v1", "ticket.abc"], SocketHandshake("dub5.v1", "Ticket abc")),
        ({}, ["dub5.v1", "ticket.a", "ticket.b"], InvalidRequest),
        ({"authorization": "Bearer k"}, ["dub5.v1"], SocketHandshake("dub5.v1", "Bearer k")),
        ({"authorization": "Bearer k"}, ["dub5.v1", "ticket.a"], InvalidRequest),
        ({"host": "h:81", "origin": "http://h:81"}, [], SocketHandshake(None, "")),
        ({"host": "h", "origin": "https://h"}, [], SocketHandshake(None, "")),
        ({"host": "H:443", "origin": "https://h"}, [], SocketHandshake(None, "")),
        ({"host": "h", "origin": LISTED}, [], SocketHandshake(None, "")),
        ({"host": "h", "origin": "http://h.evil.example"}, [], OriginNotAllowed),
        ({"host": "h", "origin": "http://h:8080"}, [], OriginNotAllowed),
        ({"host": "h", "origin": "null"}, ["dub5.v1"], OriginNotAllowed),
        ({"host": "h", "origin": ""}, [], OriginNotAllowed),
        ({"host": "", "origin": "http://"}, [], OriginNotAllowed),
        ({"host": "h", "origin": "https://evil.example", "authorization": "Bearer k"}, [], OriginNotAllowed),
    ],
)
def test_who_may_connect(
    headers: dict[str, str], subprotocols: list[str], expected: SocketHandshake | type[GatewayError]
) -> None:
    """Pages of our host and of listed origins may connect, programs may, and no other page may, whatever it
    can prove; a subprotocol that is offered must be ours."""
    found = read_handshake(headers, subprotocols, LISTED.__eq__)
    assert found == expected or type(found) is expected
