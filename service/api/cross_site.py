"""Cross-site requests: whether another site may have made a browser send a request (CSRF). A pure function.

A browser sends the session's cookie with whatever a page makes it send. So a request with the cookie must
prove that our own page, or one of a listed origin, has sent it, and its content type must be one that no form
can send.

    Sec-Fetch-Site: same-origin                        ours
    an Origin that is listed                           ours
    no Sec-Fetch-Site, and an Origin with our host     ours: an older browser
    neither header                                     no browser: refused with the cookie, else not
    anything else                                      another site's
"""

from collections.abc import Callable, Mapping

from dub5.service.config.edge_checks import DEFAULT_PORTS

# What a form, or a script without the leave that CORS asks for, can give as the type of a body.
FORM_TYPES = ("", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded")


def cross_site_problem(
    headers: Mapping[str, str], is_listed: Callable[[str], bool], *, with_cookie: bool
) -> str | None:
    """Return what makes this request unsafe to act upon, as a sentence, or None."""
    if not _is_from_our_page(headers, is_listed, with_cookie):
        return "A page of another site may have sent this request."
    if with_cookie and _has_body(headers) and _media_type(headers) in FORM_TYPES:
        return "A form of another site may have sent this request: its content type is one that forms send."
    return None


def _is_from_our_page(
    headers: Mapping[str, str], is_listed: Callable[[str], bool], with_cookie: bool
) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site == "same-origin":
        return True
    if origin is None:
        return site is None and not with_cookie
    if is_listed(origin):
        return True
    return site is None and is_same_host(origin, headers.get("host", ""))


def is_same_host(origin: str, host: str) -> bool:
    """Return whether an origin has this host, which a proxy may write with capitals or the usual port."""
    scheme, _, authority = origin.partition("://")
    return bool(authority) and host.lower() in (authority, f"{authority}:{DEFAULT_PORTS.get(scheme)}")


def _has_body(headers: Mapping[str, str]) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()
