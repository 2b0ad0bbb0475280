"""What the edge decides about a request before anything else sees it: a pure function of its head.

    host not listed              400 host_not_allowed       not for /livez and /readyz: probes send odd hosts
    http instead of https        308, or 403 https_required  likewise
    preflight of a listed origin 204 with what the page may send; of another origin 403 origin_not_allowed
    WebSocket of a foreign page  403 origin_not_allowed      browsers let pages of all origins open them
    anything else                passes; its response gets the security headers, and those of CORS

`EdgeRules.decide(head)` knows no server: whatever reads a head from a connection may ask it.
"""

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from urllib.parse import quote

from msgspec import Struct, structs

from dub5.service.api.client_address import client_address, is_trusted
from dub5.service.config.edge_checks import HOST, host_pattern, origin_pattern
from dub5.service.config.settings import ServerSettings
from dub5.service.errors import GatewayError, HostNotAllowed, HttpsRequired, OriginNotAllowed
from dub5.service.events import SecurityKind

RawHeaders = tuple[tuple[bytes, bytes], ...]

Lines = dict[bytes, list[str]]

HEADERS_READ = frozenset(
    (b"host", b"origin", b"x-forwarded-for", b"x-forwarded-proto")
    + (b"access-control-request-method", b"access-control-request-headers")
)
SECURE = ("https", "wss")
WEBSOCKET = ("ws", "wss")
HEALTH_PATHS = ("/livez", "/readyz")
HOST_CHARS_MAX = 260
PREFLIGHT_S = 7200  # as long as browsers keep it, at most
SECURITY_HEADERS: RawHeaders = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
HSTS: RawHeaders = ((b"strict-transport-security", b"max-age=31536000"),)
VARY: RawHeaders = ((b"vary", b"origin"),)
URL_CHARS = "/?:@!$&'()*+,;=%-._~[]"  # left as they are in a redirect
EXPOSED = (
    "retry-after, retry-after-ms, x-should-retry, x-request-id, "
    "x-dub5-cache, x-dub5-degraded, x-dub5-flags, x-dub5-memory, x-dub5-protocol, x-dub5-pruned, "
    "x-dub5-route, x-dub5-shared, x-dub5-target, x-dub5-trail, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "ratelimit, ratelimit-policy"
)
METHODS = b"GET, HEAD, POST, PATCH, DELETE"
# What official SDKs send from a page, besides what every page may send.
REQUEST_HEADER = re.compile(
    r"authorization|content-type|accept|cache-control|openai-(organization|project|beta)|idempotency-key"
    r"|x-(request-id|deadline-ms|api-key)|x-(stainless|dub5)-[a-z0-9-]{1,40}"
    r"|anthropic-(version|beta|dangerous-direct-browser-access)|user-agent|last-event-id|if-none-match"
)
REQUEST_HEADERS_MAX = 50


class RequestHead(Struct, frozen=True):
    """The head of a request. `target` is path and query as they were sent, for a redirect."""

    method: str
    path: str
    target: str
    scheme: str  # http, https, ws or wss
    peer: str | None
    headers: Sequence[tuple[bytes, bytes]]


class EdgeDecision(Struct, frozen=True):
    """What to do with a request: without `status` it passes, and its response gets `headers`.

    With one, that is the answer: `error` is its body, and `noted` is what it says about the client.
    `sent`: the head with the scheme and the peer that the client has, as far as proxies can be believed.
    """

    sent: RequestHead
    headers: RawHeaders
    status: int | None = None
    error: GatewayError | None = None
    noted: SecurityKind | None = None


class EdgeRules:
    """The rules of the settings. `have_sessions`: whether pages of listed origins may send a cookie now."""

    def __init__(self, server: ServerSettings, have_sessions: Callable[[], bool] = lambda: False) -> None:
        self._trusted = tuple(map(ip_network, server.trusted_proxies))
        self._https = server.https
        self._hosts = _any_of([host_pattern(name) for name in server.allowed_hosts])
        self._origins = _any_of([origin_pattern(text) for text in server.origins])
        # Not for previews: whoever may name a project at a hoster could name one like ours.
        self._may_send_cookie = frozenset(server.origins)
        self._have_sessions = have_sessions

    @staticmethod
    def are_set(server: ServerSettings) -> bool:
        """Return whether there is anything to decide."""
        is_set = server.allowed_hosts or server.origins or server.trusted_proxies or server.https != "off"
        return bool(is_set)

    def decide(self, head: RequestHead) -> EdgeDecision:
        """Return what to do with a request."""
        lines = _lines(head)
        head = self._as_sent(head, lines)
        hosts, origins = lines.get(b"host", []), lines.get(b"origin", [])
        is_secure = head.scheme in SECURE
        is_listed = len(origins) == 1 and self.is_listed(origins[0])
        headers = SECURITY_HEADERS
        if is_secure and self._https != "off":
            headers += HSTS
        if self._origins is not None:
            headers += self._cors(origins[0]) if is_listed else VARY
        if head.path not in HEALTH_PATHS:
            if not self._is_ours(hosts, head.target):
                error = HostNotAllowed("This host name is not served here.")
                return _refuse(head, headers, error, SecurityKind.HOST_REFUSED)
            if not is_secure and self._https != "off":
                return self._to_https(head, hosts, headers)
        is_allowed = is_listed
        if head.scheme in WEBSOCKET:
            is_own = len(hosts) == len(origins) == 1 and _is_same(origins[0], hosts[0])
            is_allowed = is_listed or is_own or not origins
        elif self._origins is None or not _is_preflight(head, lines):
            return EdgeDecision(head, headers)
        if not is_allowed:
            foreign = OriginNotAllowed("Pages of this origin may not use this service.")
            return _refuse(head, headers, foreign, SecurityKind.ORIGIN_REFUSED)
        if head.scheme in WEBSOCKET:
            return EdgeDecision(head, headers)
        return EdgeDecision(head, headers + _preflight(lines), 204)

    def is_listed(self, origin: str) -> bool:
        """Return whether pages of this origin may read answers."""
        return self._origins is not None and self._origins.fullmatch(origin) is not None

    def _as_sent(self, head: RequestHead, lines: Lines) -> RequestHead:
        """Return the head as the client has sent it, where a trusted proxy hands it over."""
        if not is_trusted(head.peer, self._trusted):
            return head
        scheme = head.scheme
        # Of several values the first is the client's own connection. A client that forges it harms itself.
        said = lines.get(b"x-forwarded-proto", [""])[0].partition(",")[0].strip().lower()
        if said in SECURE:
            scheme = "wss" if scheme in WEBSOCKET else "https"
        client = client_address(head.peer, lines.get(b"x-forwarded-for", []), self._trusted)
        return structs.replace(head, scheme=scheme, peer=client)

    def _is_ours(self, hosts: list[str], target: str) -> bool:
        """Return whether the one Host header is listed, and so is the host of an absolute target."""
        if self._hosts is None:
            return True
        if len(hosts) != 1 or len(hosts[0]) > HOST_CHARS_MAX or not self._hosts.fullmatch(hosts[0].lower()):
            return False
        if target.startswith("/") or target == "*":
            return True
        authority = target.partition("://")[2].partition("/")[0].partition("?")[0]
        return self._hosts.fullmatch(authority.lower()) is not None

    def _to_https(self, head: RequestHead, hosts: list[str], headers: RawHeaders) -> EdgeDecision:
        """Return a redirect where nothing secret was sent yet, else a refusal.

        A question and its key have gone out in clear by now: who sends them must notice.
        """
        host = re.sub(r":[0-9]+\Z", "", hosts[0].lower()) if len(hosts) == 1 else ""
        may_redirect = self._https == "redirect" and head.method in ("GET", "HEAD") and head.scheme == "http"
        if not (may_redirect and HOST.fullmatch(host) and head.target.startswith("/")):
            return _refuse(head, headers, HttpsRequired("This service is served by https alone."))
        location = f"https://{host}{quote(head.target, safe=URL_CHARS)}".encode("ascii")
        no_store = (b"cache-control", b"no-store")  # a wrong setting must not outlive its correction
        return EdgeDecision(head, (*headers, (b"location", location), no_store), 308)

    def _cors(self, origin: str) -> RawHeaders:
        allowed: RawHeaders = ((b"access-control-allow-origin", origin.encode("latin-1")),)
        if self._have_sessions() and origin in self._may_send_cookie:
            allowed += ((b"access-control-allow-credentials", b"true"),)
        return (*allowed, (b"access-control-expose-headers", EXPOSED.encode()), *VARY)


def _lines(head: RequestHead) -> Lines:
    """Return the values of the headers that matter here."""
    found: Lines = {}
    for name, value in head.headers:
        if (known := name.lower()) in HEADERS_READ:
            found.setdefault(known, []).append(value.decode("latin-1").strip(" \t"))
    return found


def _preflight(lines: Lines) -> RawHeaders:
    """Return what the answer to a preflight says: which of the wanted headers a page may send."""
    wanted = ",".join(lines.get(b"access-control-request-headers", [])).lower().split(",")
    names = [name.strip() for name in wanted[:REQUEST_HEADERS_MAX]]
    allowed = ", ".join(name for name in names if REQUEST_HEADER.fullmatch(name))
    return (
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", allowed.encode("ascii")),
        (b"access-control-max-age", str(PREFLIGHT_S).encode()),
        (b"vary", b"access-control-request-headers"),
    )


def _any_of(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns)) if patterns else None


def _is_preflight(head: RequestHead, lines: Lines) -> bool:
    return head.method == "OPTIONS" and b"origin" in lines and b"access-control-request-method" in lines


def _is_same(origin: str, host: str) -> bool:
    """Return whether a page's origin is the host that it asks. Whether it has https, a proxy may hide."""
    return origin in (f"https://{host.lower()}", f"http://{host.lower()}")


def _refuse(
    head: RequestHead, headers: RawHeaders, error: GatewayError, noted: SecurityKind | None = None
) -> EdgeDecision:
    return EdgeDecision(head, headers, error.status, error, noted)
