"""Checks of what browsers and strangers meet: security headers, CORS, limits, sessions, and what leaks.

A check returns what it saw, or raises CheckFailed with what to do, or FeatureMissing.
"""

import re
from http.cookies import CookieError, SimpleCookie

from dub5.service.verify.api_checks import CHAT
from dub5.service.verify.site import CheckFailed, FeatureMissing, Site

FOREIGN_ORIGIN = "https://foreign.invalid"
SECURITY_HEADERS = {"x-content-type-options": ("nosniff",), "referrer-policy": ("no-referrer", "same-origin")}
LIMIT_HEADERS = (
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "ratelimit-policy",
    "ratelimit",
)
ALLOWED = "access-control-allow-origin"
HSTS = "strict-transport-security"
MAX_AGE = re.compile(r"max-age=[1-9]\d*", re.IGNORECASE)
COUNT = re.compile(r"[0-9]{1,9}")
VERSION = re.compile(r"\d+\.\d+|/\d")
KEY_LIKE = re.compile(rb"\bsk-[A-Za-z0-9_-]{16,}")
TRACEBACK = b"Traceback (most recent call last)"


async def check_headers(site: Site) -> str:
    """Check the security headers of a good answer and of an error."""
    for path in ("/health", "/v1/no-such-path"):
        headers = (await site.ask("GET", path)).headers
        if not headers.keys() & SECURITY_HEADERS.keys():
            raise FeatureMissing(f"GET {path} has neither of {', '.join(SECURITY_HEADERS)}")
        for name, values in SECURITY_HEADERS.items():
            if headers.get(name) not in values:
                raise CheckFailed(f"GET {path}: {name} is {headers.get(name)!r}; it should be {values[0]!r}")
    return ", ".join(SECURITY_HEADERS)


async def check_https(site: Site) -> str:
    """Check that browsers are told to keep to https."""
    if not site.encrypted:
        raise FeatureMissing("the URL is http: keys and answers can be read on the way")
    value = (await site.ask("GET", "/health")).headers.get(HSTS)
    if value is None:
        raise FeatureMissing(f"no {HSTS}: browsers may come back without encryption")
    if not MAX_AGE.search(value):
        raise CheckFailed(f"{HSTS} is {value!r}; it needs a max-age above 0")
    return value


async def check_cors(site: Site) -> str:
    """Check that each given origin may ask, before and with the request, and that a foreign one may not."""
    for answered in await _allowed(site, FOREIGN_ORIGIN):
        if answered is not None:
            raise CheckFailed(
                f"{FOREIGN_ORIGIN} may ask ({ALLOWED}: {answered}); name the origins one by one"
            )
    if not site.origins:
        raise FeatureMissing("no foreign page may ask; name your pages with --origin to check them")
    for origin in site.origins:
        for answered in await _allowed(site, origin):
            if answered != origin:
                raise CheckFailed(f"{origin} may not ask ({ALLOWED}: {answered}); is it in server.origins?")
    return f"{', '.join(site.origins)}, and no foreign one"


async def _allowed(site: Site, origin: str) -> tuple[str | None, str | None]:
    """Return the origin that a preflight allows, and the one that an answer allows."""
    asks = {"origin": origin, "access-control-request-method": "POST"}
    preflight = await site.ask(
        "OPTIONS", CHAT, headers=asks | {"access-control-request-headers": "content-type"}
    )
    answer = await site.ask("GET", "/health", headers={"origin": origin})
    return preflight.headers.get(ALLOWED), answer.headers.get(ALLOWED)


async def check_limits(site: Site) -> str:
    """Check that an answer says what is left of a limit."""
    headers = (await site.ask("POST", CHAT, b"{")).headers
    seen = {name: headers[name] for name in LIMIT_HEADERS if name in headers}
    if not seen:
        raise FeatureMissing("no rate limit is told: anybody with access may ask as often as they like")
    missing = [name for name in LIMIT_HEADERS if name not in seen]
    if missing:
        raise CheckFailed(f"{', '.join(missing)}: not told; does something before the service take it away?")
    limit, left = (seen[name] for name in LIMIT_HEADERS[:2])
    if not (COUNT.fullmatch(limit) and COUNT.fullmatch(left) and int(left) <= int(limit)):
        raise CheckFailed(f"{left} of {limit} requests are left, which are no such numbers")
    return f"{left} of {limit} requests left"


async def check_session(site: Site) -> str:
    """Check that a stranger gets a session, in a cookie that scripts and other sites cannot use."""
    answer = await site.ask("POST", "/v1/session")
    if answer.status in (404, 405):
        raise FeatureMissing("there are no sessions: only callers with a key may ask")
    if answer.status not in (200, 201):
        raise CheckFailed(f"POST /v1/session: {answer.told()}")
    try:
        cookies = list(SimpleCookie(answer.headers.get("set-cookie", "")).values())
    except CookieError:
        cookies = []
    if not cookies:
        raise CheckFailed("POST /v1/session sets no cookie; does something before the service take it away?")
    wanted = ("httponly", "samesite", "secure") if site.encrypted else ("httponly", "samesite")
    if missing := [flag for flag in wanted if not cookies[-1][flag]]:
        raise CheckFailed(f"the cookie {cookies[-1].key} lacks {', '.join(missing)}")
    return f"cookie {cookies[-1].key}"


async def check_leaks(site: Site) -> str:
    """Check that no answer so far holds a key, a traceback, or the version of a server."""
    key = None if site.key is None else site.key.reveal().encode()
    for answer in site.answers:
        whole = "\n".join(answer.headers.values()).encode("utf-8", "replace") + b"\n" + answer.body
        if (key is not None and key in whole) or KEY_LIKE.search(whole):
            raise CheckFailed("an answer holds a key: change that key, then look for what writes it")
        if TRACEBACK in whole:
            raise CheckFailed("an answer holds a traceback; something runs in a debug mode")
        for name in ("server", "x-powered-by"):
            if VERSION.search(value := answer.headers.get(name, "")):
                raise CheckFailed(f"the header {name} tells a version ({value}); switch it off")
    return f"{len(site.answers)} answers hold no key, traceback or version"
