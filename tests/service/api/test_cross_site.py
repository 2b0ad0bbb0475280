"""Which requests another site may have made a browser send, from the head alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.api.cross_site import cross_site_problem

LISTED = "https://dub5.example"
OURS = {"host": "chat.example"}
PAGE = OURS | {"sec-fetch-site": "same-origin", "origin": "https://chat.example"}
JSON = {"content-type": "application/json", "content-length": "20"}
FORM = {"content-type": "text/plain", "content-length": "20"}
# Who may have sent it; its head; whether it is safe with the cookie, and without.
SENDERS = [
    ("our page", PAGE, True, True),
    ("our page, which gives no origin", OURS | {"sec-fetch-site": "same-origin"}, True, True),
    ("an older browser on our page", OURS | {"origin": "https://chat.example"}, True, True),
    ("the same behind a proxy that ends TLS", OURS | {"origin": "http://chat.example"}, True, True),
    ("a listed page of another site", OURS | {"sec-fetch-site": "cross-site", "origin": LISTED}, True, True),
    ("a listed page of our site", OURS | {"sec-fetch-site": "same-site", "origin": LISTED}, True, True),
    ("an older browser on a listed page", OURS | {"origin": LISTED}, True, True),
    ("a program", OURS, False, True),
    ("another page", OURS | {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, False, False),
    ("another page that gives no origin", OURS | {"sec-fetch-site": "cross-site"}, False, False),
    ("a subdomain", OURS | {"sec-fetch-site": "same-site", "origin": "https://x.example"}, False, False),
    ("an older browser on another page", OURS | {"origin": "https://evil.example"}, False, False),
    ("a page in a sandbox", OURS | {"sec-fetch-site": "cross-site", "origin": "null"}, False, False),
    ("an older browser in a sandbox", OURS | {"origin": "null"}, False, False),
    ("another port", OURS | {"origin": "https://chat.example:8443"}, False, False),
    ("our http page", OURS | {"sec-fetch-site": "cross-site", "origin": "http://chat.example"}, False, False),
    ("our host in capitals", {"host": "Chat.Example", "origin": "https://chat.example"}, True, True),
    ("our host with its port", {"host": "chat.example:443", "origin": "https://chat.example"}, True, True),
    ("with the port of http", {"host": "chat.example:443", "origin": "http://chat.example"}, False, False),
    ("with another port", {"host": "chat.example:8443", "origin": "https://chat.example"}, False, False),
    ("an empty host", {"host": "", "origin": "null"}, False, False),
    ("a longer name", OURS | {"origin": "https://chat.example.evil.example"}, False, False),
    ("an address bar", OURS | {"sec-fetch-site": "none"}, False, False),
    ("a broken browser", OURS | {"sec-fetch-site": "Same-Origin, cross-site"}, False, False),
    ("an empty origin without a host", {"origin": ""}, False, False),
]
BODIES = [
    ({}, True),
    ({"content-length": "0", "content-type": "text/plain"}, True),
    (JSON, True),
    (JSON | {"content-type": "Application/JSON; charset=utf-8"}, True),
    (JSON | {"content-type": "application/merge-patch+json"}, True),
    (FORM, False),
    (FORM | {"content-type": "TEXT/PLAIN; x=application/json"}, False),
    (FORM | {"content-type": "multipart/form-data; boundary=a"}, False),
    (FORM | {"content-type": "application/x-www-form-urlencoded"}, False),
    ({"content-length": "20"}, False),
    ({"transfer-encoding": "chunked"}, False),
]


def is_listed(origin: str) -> bool:
    return origin == LISTED


@pytest.mark.parametrize(("who", "head", "safe", "safe_without"), SENDERS, ids=[row[0] for row in SENDERS])
def test_senders(who: str, head: dict[str, str], safe: bool, safe_without: bool) -> None:
    """With the cookie a request must prove its page; without, one is refused if a browser says otherwise."""
    assert (cross_site_problem(head, is_listed, with_cookie=True) is None) == safe
    assert (cross_site_problem(head, is_listed, with_cookie=False) is None) == safe_without


@pytest.mark.parametrize(("body", "safe"), BODIES)
def test_bodies(body: dict[str, str], safe: bool) -> None:
    """With the cookie, a body must have a type that no form can send; without, any type may come."""
    assert (cross_site_problem(PAGE | body, is_listed, with_cookie=True) is None) == safe
    assert cross_site_problem(PAGE | body, is_listed, with_cookie=False) is None


@given(
    st.dictionaries(
        st.sampled_from(("host", "origin", "sec-fetch-site", "content-type", "content-length")),
        st.sampled_from(("", "null", "://", "same-origin", LISTED, "https://evil.example")) | st.text(),
    )
)
def test_any_head(head: dict[str, str]) -> None:
    """Whatever a head says, what is safe with the cookie is safe without; no page that says so is refused."""
    with_cookie = cross_site_problem(head, is_listed, with_cookie=True)
    if with_cookie is None:
        assert cross_site_problem(head, is_listed, with_cookie=False) is None
        proof = (head.get("origin") or "").partition("://")[2]
        assert (
            head.get("sec-fetch-site") == "same-origin"
            or proof == "dub5.example"
            or head["host"].lower()
            in (
                proof,
                f"{proof}:443",
                f"{proof}:80",
            )
        )
