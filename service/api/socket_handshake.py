"""The handshake of the WebSocket at PATH: pure functions of what a request says.

    is_upgrade       may the connection leave HTTP? Else the request is served as any other, by HTTP
    read_handshake   which pages may connect, which subprotocol is spoken, and what proves who asks

Browsers let pages of all origins open WebSockets, and send the cookie along. So a page of another site is
refused before the connection is accepted, whatever it can prove; a program sends no Origin.

    Origin    none | our own host | listed in server.origins, previews included      else 403
    protocol  none offered | SUBPROTOCOL, with at most one `ticket.<ticket>`         else 400
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from dub5.service.api.cross_site import is_same_host
from dub5.service.errors import GatewayError, InvalidRequest, OriginNotAllowed

PATH = "/v1/ws"
SUBPROTOCOL = "dub5.v1"
TICKET_PREFIX = "ticket."  # browsers let pages set no other header of a handshake
VERSION = b"13"
HEADERS_MAX = 128  # of the library that parses the head again
LINE_BYTES_MAX = 8000
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

HeaderLines = Sequence[tuple[bytes, bytes]]


class SocketHandshake(Struct, frozen=True):
    """What a handshake asks for. `authorization`: as in the header of that name; a ticket may stand in it."""

    subprotocol: str | None
    authorization: str


def is_upgrade(method: bytes, target: bytes, version: str, headers: HeaderLines) -> bool:
    """Return whether a request that offers another protocol is a whole WebSocket handshake for PATH.

    `headers` have lower-case names. What it takes, the WebSocket library takes as well.
    """
    if (method, target.partition(b"?")[0], version) != (b"GET", PATH.encode(), "1.1") or not target.isascii():
        return False
    lines: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        lines.setdefault(name, []).append(value.strip(b" \t"))
    offered = [value.lower() for value in lines.get(b"upgrade", [])]
    if offered != [b"websocket"] or lines.get(b"sec-websocket-version") != [VERSION]:
        return False
    has_body = b"transfer-encoding" in lines or lines.get(b"content-length", [b"0"]) != [b"0"]
    keys = lines.get(b"sec-websocket-key", [])
    if has_body or len(keys) != 1 or not _is_key(keys[0]) or len(lines.get(b"origin", [])) > 1:
        return False
    tokens = b",".join(lines.get(b"sec-websocket-protocol", [b"x"])).split(b",")
    return all(TOKEN.fullmatch(token.strip(b" \t")) for token in tokens)


def is_small(target: bytes, headers: HeaderLines) -> bool:
    """Return whether the WebSocket library takes a head of this size."""
    longest = max([len(target), *(len(name) + len(value) for name, value in headers)])
    return len(headers) <= HEADERS_MAX and longest <= LINE_BYTES_MAX


def upgrade_head(target: bytes, headers: HeaderLines) -> bytes:
    """Return the head of a WebSocket handshake, with no other offer in it."""
    kept = [line for line in headers if line[0] not in (b"connection", b"upgrade")]
    lines = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket"), *kept]
    return b"GET %s HTTP/1.1\r\n%s\r\n" % (target, b"".join([b"%s: %s\r\n" % line for line in lines]))


def read_handshake(
    headers: Mapping[str, str], subprotocols: Sequence[str], is_listed: Callable[[str], bool]
) -> SocketHandshake | GatewayError:
    """Return what a handshake asks for, or why it is refused."""
    origin = headers.get("origin")
    if origin is not None and not is_listed(origin) and not is_same_host(origin, headers.get("host", "")):
        return OriginNotAllowed("Pages of this origin may not use this service.")
    if subprotocols and SUBPROTOCOL not in subprotocols:
        return InvalidRequest(f"The subprotocol of this WebSocket is {SUBPROTOCOL}.")
    tickets = [one for one in subprotocols if one.startswith(TICKET_PREFIX)]
    authorization = headers.get("authorization", "")
    if len(tickets) > 1 or (tickets and authorization):
        return InvalidRequest("Send one ticket, or an Authorization header.")
    if tickets:
        authorization = f"Ticket {tickets[0].removeprefix(TICKET_PREFIX)}"
    return SocketHandshake(SUBPROTOCOL if subprotocols else None, authorization)


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False
