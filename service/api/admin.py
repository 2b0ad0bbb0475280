"""Orders to the running service, for who sits at this machine and holds the token.

    POST /admin/cache/invalidate   {"route": ..} | {"model": ..} | {"caller": ..} | {"key": ..} | {"everything": true}

To everybody else there is nothing here. A browser is not to be talked into it: no page of another origin is heard, and
no name but a loopback one is taken for ours, whatever it resolves to.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from litestar import Request, Response, post
from litestar.handlers import HTTPRouteHandler

from dub5.service.api.schema import read_json
from dub5.service.cache.cache import AnswerCache, Selection
from dub5.service.cache.storage import StorageLost
from dub5.service.config.settings import Secret
from dub5.service.errors import InvalidRequest, NotFound, TooLarge, Unauthorized, Unavailable

BODY_BYTES_MAX = 16 * 1024
NAME_CHARS_MAX = 512
DEPTH_MAX = 4
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
RETRY_AFTER_S = 5.0
_SELECTION = msgspec.json.Decoder(Selection)


class Admin:
    """Checks who gives an order, and carries it out."""

    def __init__(self, cache: AnswerCache, token: Secret | None) -> None:
        self._cache = cache
        self.own_token = token is None
        self._token = token or Secret(secrets.token_urlsafe(24))

    @property
    def token(self) -> Secret:
        """What an order must bring; to be shown once, at the start, where it is our own."""
        return self._token

    def reload(self, token: Secret | None) -> None:
        """Another one from the settings; where they name none, ours stays."""
        if token is not None:
            self._token, self.own_token = token, False

    def check(self, peer: str | None, headers: Mapping[str, str], path: str) -> None:
        """Raises NotFound to who is not at this machine, Unauthorized to who has not the token."""
        host = headers.get("host", "")
        is_local = _is_loopback(peer) and _is_loopback(_hostname(f"//{host}"))
        origin = headers.get("origin")
        is_cross_origin = origin is not None and origin != f"http://{host}"
        if not is_local or is_cross_origin or any(name in headers for name in PROXY_HEADERS):
            raise NotFound(f"There is nothing at {path[:200]!r}.")
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        matches = hmac.compare_digest(credentials.strip().encode(), self._token.reveal().encode())
        if scheme.lower() != "bearer" or not matches:
            raise Unauthorized(
                "The admin token is missing or wrong: it is the one of admin.token_env, or was printed at the start."
            )

    async def invalidate(self, headers: Mapping[str, str], body: bytes) -> Selection:
        """What is given no more. Raises InvalidRequest; Unavailable if it still may be."""
        selection, _ = read_json(headers, body, DEPTH_MAX, _SELECTION)
        chosen = selection.chosen()
        if chosen is None or len(chosen[1]) > NAME_CHARS_MAX:
            raise InvalidRequest('Name one of "route", "model", "caller", "key", or "everything": true.')
        try:
            await self._cache.invalidate(selection)
        except StorageLost:
            raise Unavailable(
                "The cache cannot be reached: nothing was invalidated, and kept answers may still be given.",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        return selection


def admin_routes(admin: Admin) -> list[HTTPRouteHandler]:
    """The handlers."""

    @post("/admin/cache/invalidate", status_code=200)
    async def invalidate(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Ends the life of kept answers."""
        headers = dict(request.headers)
        admin.check(request.client.host if request.client else None, headers, request.url.path)
        selection = await admin.invalidate(headers, await _body(request))
        confirmation = {
            "invalidated": {name: value for name, value in msgspec.structs.asdict(selection).items() if value}
        }
        return Response(
            msgspec.json.encode(confirmation),
            media_type="application/json",
            headers={"cache-control": "no-store"},
        )

    return [invalidate]


async def _body(request: Request[Any, Any, Any]) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise TooLarge(f"The body is larger than {BODY_BYTES_MAX:,} bytes.")
        parts.append(part)
    return b"".join(parts)


def _is_loopback(name: str | None) -> bool:
    if name is None:
        return False
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
