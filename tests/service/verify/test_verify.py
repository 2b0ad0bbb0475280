"""`dub5 verify` against a service on real sockets that has every feature, and one fault at a time."""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pytest

from dub5.service.api.errors import error_body
from dub5.service.config.settings import Secret
from dub5.service.errors import GatewayError, InvalidRequest, MethodNotAllowed, NotFound
from dub5.service.verify.command import CHECKS, FEATURES, PROGRESS_S, add_arguments, run, verify
from dub5.service.verify.site import LIMIT_S, Site
from dub5.service.wire.native_wire import NativeWire
from dub5.simulators.script import Hang, Script, SimRequest
from dub5.simulators.server.sockets import serve
from dub5.simulators.virtual import VirtualWire
from tests.support.world import completion, reply, script

KEY = "caller-key-of-this-test"
ORIGIN = "https://page.example"
EVERYWHERE = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
LIMITS = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "59",
    "ratelimit-policy": '"minute";q=60;w=60',
    "ratelimit": '"minute";r=59;t=60',
}
CHUNKS = (
    '{"choices":[{"delta":{"content":"hi"}}]}',
    '{"choices":[{"delta":{},"finish_reason":"stop"}]}',
    "[DONE]",
)
STREAM = "".join(f"data: {chunk}\n\n" for chunk in CHUNKS).encode()


class Page(NamedTuple):
    """One response."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


Fault = Callable[[SimRequest, Page], Page]


def refusal(error: GatewayError) -> Page:
    return Page(error.status, json.dumps(error_body(error, "req_1")).encode(), {"x-request-id": "req_1"})


def whole(request: SimRequest) -> Page:
    """Answer as a service does that has every feature."""
    match request.method, request.path:
        case "OPTIONS", _:
            page = Page(204, b"")
        case "GET", "/health":
            page = Page(200, b'{"status": "ok", "version": "0.1.0"}')
        case "GET", "/readyz":
            page = Page(200, b'{"status": "ok"}')
        case "GET", "/v1/models":
            page = Page(200, b'{"data": [{"id": "embed-small"}, {"id": "chat"}]}')
        case "POST", "/v1/session":
            cookie = "dub5=abc; HttpOnly; SameSite=Lax; Path=/; Secure"
            page = Page(201, b"{}", {"set-cookie": cookie})
        case "POST", "/v1/chat/completions":
            page = answered(request)
        case "GET", "/v1/chat/completions":
            page = refusal(MethodNotAllowed("Use POST."))
        case _:
            page = refusal(NotFound("No such path."))
    allowed = request.headers.get("origin")
    cors = {"access-control-allow-origin": ORIGIN} if allowed == ORIGIN else {}
    return page._replace(headers={**EVERYWHERE, **cors, **page.headers})


def answered(request: SimRequest) -> Page:
    try:
        asked = json.loads(request.body)
    except ValueError:
        page = refusal(InvalidRequest("The body is not JSON."))
    else:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        page = (
            Page(200, STREAM, {"content-type": "text/event-stream"})
            if asked["stream"]
            else Page(200, completion("hi"))
        )
    return page._replace(headers={**LIMITS, **page.headers})


def broken(fault: Fault) -> Callable[[SimRequest], Script]:
    def respond(request: SimRequest) -> Script:
        page = fault(request, whole(request))
        return reply(page.status, page.body, page.headers)

    return respond


def unchanged(request: SimRequest, page: Page) -> Page:
    return page


def at(path: str, **changes: object) -> Fault:
    """Change the answers of one path: `status`, `body` or `headers`."""
    return lambda request, page: page._replace(**changes) if request.path == path else page  # type: ignore[arg-type]


def header(name: str, value: str | None, path: str | None = None, method: str | None = None) -> Fault:
    """Set a header of all answers, or of those of a path or method; None takes it away."""

    def fault(request: SimRequest, page: Page) -> Page:
        if path not in (None, request.path) or method not in (None, request.method):
            return page
        kept = {known: text for known, text in page.headers.items() if known != name}
        return page._replace(headers=kept if value is None else kept | {name: value})

    return fault


def body(old: bytes, new: bytes, status: int | None = None) -> Fault:
    """Replace bytes in bodies, of answers with a status, if one is given."""
    return lambda _, page: (
        page._replace(body=page.body.replace(old, new)) if status in (None, page.status) else page
    )


def instead(old: bytes, *, status: int = 200, **headers: str) -> Fault:
    """Change status and headers of the answers whose body begins with some bytes; `_` in a name is a dash."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}

    def fault(_: SimRequest, page: Page) -> Page:
        changed = page._replace(status=status, headers={**page.headers, **more})
        return changed if page.body.startswith(old) else page

    return fault


def reflected(request: SimRequest, page: Page) -> Page:
    origin = request.headers.get("origin")
    return page._replace(headers={**page.headers, "access-control-allow-origin": origin}) if origin else page


def wrong_status(status: int) -> Fault:
    return lambda _, page: page._replace(status=200) if page.status == status else page


CHAT = "/v1/chat/completions"
ALLOWED = "access-control-allow-origin"
COOKIE = "dub5=abc; SameSite=Lax"
ANSWER = b'{"id"'
FAULTS: dict[str, tuple[str, Fault]] = {
    "ill": ("health", at("/health", status=503)),
    "another service": ("health", at("/health", body=b"<html>")),
    "draining": ("ready", at("/readyz", status=503)),
    "a key is wanted": ("models", at("/v1/models", status=401)),
    "no models": ("models", at("/v1/models", body=b'{"data": []}')),
    "no provider": ("chat", instead(ANSWER, status=503)),
    "fallback": ("chat", instead(ANSWER, x_dub5_degraded="yes")),
    "empty answer": ("chat", body(b'"content": "hi"', b'"content": ""')),
    "cut stream": ("stream", body(b"data: [DONE]\n\n", b"")),
    "no finish": ("stream", body(b'"finish_reason":"stop"', b'"finish_reason":null')),
    "error event": ("stream", body(b'{"choices":[{"delta":{"c', b'{"error":1,"choices":[{"delta":{"c')),
    "no event stream": ("stream", instead(STREAM, content_type="text/html")),
    "no JSON in it": ("stream", body(b'data: {"choices', b'data: {choices')),
    "404 as 200": ("errors", wrong_status(404)),
    "400 as 200": ("errors", wrong_status(400)),
    "405 as 200": ("errors", wrong_status(405)),
    "shape of 404": ("errors", body(b'"suggestion"', b'"hint"', 404)),
    "shape of 405": ("errors", body(b'"suggestion"', b'"hint"', 405)),
    "lost id": ("errors", header("x-request-id", None)),
    "sniffing": ("headers", header("x-content-type-options", None)),
    "referrers": ("headers", header("referrer-policy", "unsafe-url")),
    "sniffing of errors": ("headers", header("x-content-type-options", None, "/v1/no-such-path")),
    "all origins": ("cors", header(ALLOWED, "*")),
    "any origin": ("cors", reflected),
    "no origin": ("cors", header(ALLOWED, None)),
    "preflight only": ("cors", header(ALLOWED, None, method="GET")),
    "answer only": ("cors", header(ALLOWED, None, method="OPTIONS")),
    "half a limit": ("limits", header("ratelimit", None)),
    "odd limit": ("limits", header("x-ratelimit-remaining-requests", "61")),
    "session breaks": ("session", at("/v1/session", status=500)),
    "no cookie": ("session", header("set-cookie", None)),
    "cookie for scripts": ("session", header("set-cookie", COOKIE, "/v1/session")),
    "cookie for all sites": ("session", header("set-cookie", "dub5=abc; HttpOnly", "/v1/session")),
    "own key": ("leaks", at("/readyz", body=KEY.encode())),
    "provider's key": ("leaks", at("/readyz", body=b'{"key": "sk-abcdefghijklmnop"}')),
    "traceback": ("leaks", at("/readyz", body=b"Traceback (most recent call last)")),
    "server's version": ("leaks", header("server", "uvicorn/0.54.0")),
}  # fmt: skip
ABSENT: dict[str, Fault] = {
    "headers": lambda _, p: p._replace(headers={n: v for n, v in p.headers.items() if n not in EVERYWHERE}),
    "limits": lambda _, p: p._replace(headers={n: v for n, v in p.headers.items() if n not in LIMITS}),
    "session": lambda r, p: refusal(NotFound("No such path.")) if r.path == "/v1/session" else p,
}


async def verified(
    fault: Fault, expected: Sequence[str] = (), *, origins: Sequence[str] = (ORIGIN,), model: str = ""
) -> int:
    wire = NativeWire()
    try:
        async with serve(broken(fault)) as server:
            return await verify(Site(server.url, wire, Secret(KEY), model, origins), expected)
    finally:
        await wire.aclose()


def verdicts(printed: str) -> dict[str, str]:
    """Return what was printed of each check, by its name: ok, FAILS or NOT."""
    return dict(re.findall(r"^  \[ ?\d+/\d+\] (\w+) +(ok|FAILS|NOT HERE):", printed, re.MULTILINE))


@pytest.mark.real_sockets
async def test_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """A service that has everything passes every check; without encryption that one says so."""
    assert await verified(unchanged, ("cors", "limits", "session", "headers")) == 0
    printed = capsys.readouterr().out
    assert verdicts(printed) == {check.name: "ok" for check in CHECKS} | {"https": "NOT HERE"}
    assert "11 hold, 0 fail, 1 not here." in printed and KEY not in printed


@pytest.mark.real_sockets
@pytest.mark.parametrize("name", FAULTS)
async def test_one_fault(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The check of what is broken fails, no other does, and its line says more than that."""
    check, fault = FAULTS[name]
    assert await verified(fault) == 1
    printed = capsys.readouterr().out
    assert [name for name, verdict in verdicts(printed).items() if verdict == "FAILS"] == [check]
    assert KEY not in printed


def test_each_check_can_fail() -> None:
    """No check is without a fault that it finds; https has a test of its own."""
    assert {check for check, _ in FAULTS.values()} == {check.name for check in CHECKS} - {"https"}


@pytest.mark.real_sockets
@pytest.mark.parametrize("feature", ABSENT)
async def test_absent(feature: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A feature that is not there is named loudly, and fails only where it is expected."""
    assert await verified(ABSENT[feature]) == 0
    assert verdicts(capsys.readouterr().out)[feature] == "NOT HERE"
    assert await verified(ABSENT[feature], (feature,)) == 1
    assert verdicts(capsys.readouterr().out)[feature] == "FAILS"


ODD = (  # what anybody's site may answer
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"status": "ok", "data": [{"id": ["x"]}, 5], "error": "no", "choices": [{"message": 5}]}',
    b'{"status": "ok", "data": {"id": 1}, "error": {"message": "\\u001b[31m"}, "choices": null}',
    b'data: {"choices": null}\n\ndata: {"choices": [5]}\n\ndata: [DONE]\n\n',
    b"data: " + b"[" * 100_000 + b"\n\n",
    b"\xff\xfe\x00",
)
ODD_HEADERS = {
    "content-type": "text/event-stream",
    "location": "https://else.where/\x1b[31m",
    "set-cookie": "\xff=\xff; \xff",
    ALLOWED: "\udcff",
} | dict.fromkeys(LIMITS, "\xb2")


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("status", [200, 301, 404])
async def test_not_ours(odd: bytes, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a site answers that is none of ours, each check ends in a line, and none is an escape code."""
    url = "https://dub5.example"
    wire = VirtualWire({url: broken(lambda *_: Page(status, odd, ODD_HEADERS))})
    assert await verify(Site(url, wire, Secret(KEY), "", (ORIGIN,))) == 1
    printed = capsys.readouterr().out
    assert list(verdicts(printed)) == [check.name for check in CHECKS]
    assert "\x1b" not in printed and "\udcff" not in printed
    assert ("to https://else.where/" in printed) == (status == 301)


async def test_waiting(capsys: pytest.CaptureFixture[str]) -> None:
    """A site that takes long is told about every two seconds, until its time is over."""
    url = "https://dub5.example"
    wire = VirtualWire({url: script(Hang())})
    assert await verify(Site(url, wire, None, "", ())) == 2
    waits = capsys.readouterr().err.splitlines()
    assert waits[0] == "  [ 1/12] health   waiting: 2 s"
    assert len(waits) == pytest.approx(LIMIT_S / PROGRESS_S, abs=1)


@pytest.mark.real_sockets
async def test_no_origins(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a given origin only the foreign one is tried."""
    assert await verified(unchanged, origins=()) == 0
    assert verdicts(capsys.readouterr().out)["cors"] == "NOT HERE"
    assert await verified(reflected, origins=()) == 1


@pytest.mark.real_sockets
async def test_unknown_model(capsys: pytest.CaptureFixture[str]) -> None:
    """A model that is not there is named beside those that are."""
    assert await verified(unchanged, model="cat") == 1
    assert "there is no model 'cat', but embed-small, chat" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "code"), [("max-age=31536000", 0), ("max-age=0", 1), (None, 1)], ids=["told", "ended", "absent"]
)
async def test_https(value: str | None, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the URL is https, browsers are told to keep to it, and the cookie is for https only."""
    url = "https://dub5.example"
    wire = VirtualWire({url: broken(header("strict-transport-security", value))})
    assert await verify(Site(url, wire, Secret(KEY), "", (ORIGIN,)), ("https",)) == code
    assert verdicts(capsys.readouterr().out)["session"] == "ok"
    insecure = header("set-cookie", "dub5=abc; HttpOnly; SameSite=Lax", "/v1/session")
    wire = VirtualWire({url: broken(insecure)})
    assert await verify(Site(url, wire, Secret(KEY), "", (ORIGIN,))) == 1
    assert "lacks secure" in capsys.readouterr().out


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser, "verify")
    return parser.parse_args(arguments)


def test_nothing_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing answers, nothing else is asked, and the exit code says that nothing was checked."""
    assert run(options("http://127.0.0.1:9")) == 2
    assert "connections are refused" in capsys.readouterr().out


def test_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    """A variable that is not set ends it before anything is asked."""
    assert run(options("http://127.0.0.1:9", "--key-env", "NO_SUCH_KEY_HERE")) == 2
    assert "NO_SUCH_KEY_HERE is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            ["dub5.example"],
            ["http://"],
            ["http://[::1"],
            ["http://a:99999"],
            ["http://a b"],
            ["http://a\nb"],
        ),
        *(["https://user:secret@a"], ["https://a", "--expect", "cors,cats"]),
        *(
            ["https://a", "--origin", origin]
            for origin in ("page", "https://p/", "https://p\u00e4ge", "https://p\r")
        ),
    ],
    ids=repr,
)
def test_wrong_options(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What is no address, no origin or no feature is refused, in a sentence without a password."""
    with pytest.raises(SystemExit):
        options(*wrong)
    said = capsys.readouterr().err
    assert re.search("must be|must hold|is none of", said) and "secret" not in said
    assert options("https://a", "--expect", ",".join(FEATURES)).expect == FEATURES
