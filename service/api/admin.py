"""The admin API: commands to the running service, from this machine only and with the admin token.

    POST /admin/cache/invalidate
         {"route": ..} | {"model": ..} | {"caller": ..} | {"key": ..} | {"everything": true}

All other clients receive 404. A browser cannot be tricked into a command: requests from another origin are
rejected, and so are host names other than loopback ones, whatever they resolve to.
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
from litestar.types import Scope

from dub5.service.admission.admission import bearer_key
from dub5.service.api.errors import no_such_path
from dub5.service.api.key_guard import KeyGuard
from dub5.service.api.routes import json_response
from dub5.service.api.schema import read_json
from dub5.service.api.small_body import read_small
from dub5.service.cache.cache import AnswerCache, Selection
from dub5.service.config.settings import Secret
from dub5.service.errors import InvalidRequest, Unavailable, WrongAdminToken
from dub5.service.resilience.storage_guard import StorageLost

BODY_BYTES_MAX = 16 * 1024
NAME_CHARS_MAX = 512
DEPTH_MAX = 4
OPERATOR = "operator"  # the owner of the token, to the guard
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
RETRY_AFTER_S = 5.0
_SELECTION = msgspec.json.Decoder(Selection)


class Admin:
    """Authorizes admin commands and executes them."""

    def __init__(self, cache: AnswerCache, token: Secret | None, guard: KeyGuard) -> None:
        self._cache = cache
        self._guard = guard
        self.own_token = token is None
        self._token = token or Secret(secrets.token_urlsafe(24))

    @property
    def token(self) -> Secret:
        """Return the token that commands must send; a generated one is shown once, at startup."""
        return self._token

    def reload(self, token: Secret | None) -> None:
        """Replace the token by the settings' one; without one there, the token stays."""
        if token is not None:
            self._token, self.own_token = token, False

    def check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Raise NotFound for a client that is not on this machine, WrongAdminToken for a wrong token.

        Raises RateLimited for one that guesses.
        """
        host, client = headers.get("host", ""), scope.get("client")
        is_local = _is_loopback(client[0] if client else None) and _is_loopback(_hostname(f"//{host}"))
        origin = headers.get("origin")
        is_cross_origin = origin is not None and origin != f"http://{host}"
        if not is_local or is_cross_origin or any(name in headers for name in PROXY_HEADERS):
            raise no_such_path(scope["path"])
        token = bearer_key(headers.get("authorization", ""))
        matches = hmac.compare_digest(token.encode(), self._token.reveal().encode())
        if token:
            self._guard.check(scope, token, OPERATOR if matches else None)
        if not matches:
            raise WrongAdminToken("The admin token is missing or wrong.")

    async def invalidate(self, headers: Mapping[str, str], body: bytes) -> Selection:
        """Invalidate cached answers and return the selection. Raises InvalidRequest, Unavailable."""
        selection, _ = read_json(headers, body, DEPTH_MAX, _SELECTION)
        chosen = selection.chosen()
        if chosen is None or len(chosen[1]) > NAME_CHARS_MAX:
            raise InvalidRequest('Name one of "route", "model", "caller", "key", or "everything": true.')
        try:
            await self._cache.invalidate(selection)
        except StorageLost:
            raise Unavailable(
                "The cache is unavailable: nothing was invalidated, and cached answers may still be served.",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        return selection


def admin_routes(admin: Admin) -> list[HTTPRouteHandler]:
    """Create the handlers."""

    @post("/admin/cache/invalidate", status_code=200)
    async def invalidate(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Invalidate cached answers."""
        headers = dict(request.headers)
        admin.check(request.scope, headers)
        selection = await admin.invalidate(headers, await read_small(request, BODY_BYTES_MAX))
        confirmation = {
            "invalidated": {name: value for name, value in msgspec.structs.asdict(selection).items() if value}
        }
        return json_response(confirmation)

    return [invalidate]


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
