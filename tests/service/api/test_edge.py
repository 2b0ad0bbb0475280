"""The edge in front of the whole service: hosts, TLS, origins, security headers."""

import asyncio
import json
import re
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dub5.service.api.edge import EdgeApp
from dub5.service.api.edge_rules import (
    EXPOSED,
    METHODS,
    EdgeDecision,
    EdgeRules,
    RequestHead,
)
from dub5.service.config.settings import ServerSettings
from dub5.service.events import SecurityNoted
from dub5.simulators.virtual import run
from tests.support.connection import Connection
from tests.support.edge_cases import (
    BAD_HOST,
    BAD_ORIGIN,
    CASES,
    HOST,
    NO_TLS,
    ORIGIN,
    ORIGINS,
    PASSES,
    PREFLIGHT,
    PROXY,
    REDIRECT,
    SERVER,
    STRANGER,
    EdgeCase,
)
from tests.support.source import ROOT
from tests.support.world import ServiceWorld, body, healthy

RULES = EdgeRules(SERVER)
PATHS = ("/v1/chat/completions", "/v1/embeddings", "/v1/models", "/", "/web/app.js", "/health", "/no/path")
ONCE = (
    "content-security-policy",
    "x-content-type-options",
    "referrer-policy",
    "cross-origin-resource-policy",
)


class RawResponse(NamedTuple):
    """A response with its header lines as they were sent."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known == name]

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


async def send(app: Any, head: RequestHead, sent: bytes = b"") -> RawResponse:
    """Send a request with any header lines, and return the whole response."""
    path, _, query = head.target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": head.method,
        "scheme": head.scheme,
        "path": head.path,
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": list(head.headers),
        "client": (head.peer, 1) if head.peer else None,
        "server": ("x", 80),
        "state": {},
    }
    requests = [{"type": "http.request", "body": sent, "more_body": False}]
    responses: list[Any] = []
    over = asyncio.Event()

    async def receive() -> Any:
        if requests:
            return requests.pop()
        await over.wait()
        return {"type": "http.disconnect"}

    async def respond(message: Any) -> None:
        responses.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            over.set()

    await app(scope, receive, respond)
    start, *parts = responses
    assert [message["type"] for message in responses].count("http.response.start") == 1
    headers = [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]]
    return RawResponse(start["status"], headers, b"".join(part["body"] for part in parts))


def shown(decision: EdgeDecision) -> str:
    """Return a decision as the table has it."""
    return decision.error.code if decision.error else str(decision.status or PASSES)


def cors_of(decision: EdgeDecision) -> str | None:
    found = [value.decode() for name, value in decision.headers if name == b"access-control-allow-origin"]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_cases(case: EdgeCase) -> None:
    """Each head is decided as the table says, on every path, and the service does what was decided."""
    async with ServiceWorld(one=healthy(), server=SERVER) as world:
        for path in (case.path,) if case.path else PATHS:
            head = case.head(path)
            decision = RULES.decide(head)
            assert (shown(decision), cors_of(decision)) == (case.expected, case.cors), path

            is_chat = path.endswith("completions") and case.method == "POST"
            if is_chat:
                head = replace(head, headers=[*head.headers, (b"content-type", b"application/json")])
            response = await send(world.service.asgi, head, json.dumps(body()).encode() if is_chat else b"")
            if case.expected in (BAD_HOST, BAD_ORIGIN, NO_TLS):
                assert (response.status, response.code) == (
                    400 if case.expected == BAD_HOST else 403,
                    case.expected,
                )
                assert response.all("x-request-id") and response.all("content-type") == ["application/json"]
            elif case.expected == PASSES:
                assert response.status in (200, 204, 400, 404, 405)
                assert response.status == 200 or not is_chat
                assert not is_chat or b"hello" in response.body
            else:
                assert (response.status, response.body) == (int(case.expected), b"")
            assert response.all("access-control-allow-origin") == ([case.cors] if case.cors else [])
            assert [response.all(name) for name in ONCE if len(response.all(name)) != 1] == []
            is_secure = case.expected not in (REDIRECT, NO_TLS) and "without TLS" not in case.name
            assert response.all("strict-transport-security") == (["max-age=31536000"] if is_secure else [])


@pytest.mark.parametrize("origin", ORIGINS, ids=ascii)
def test_origins(origin: str) -> None:
    """An origin may read answers, and learn by a preflight that it may ask, only if it is listed."""
    for method, asked in (("POST", {}), ("OPTIONS", {"access-control-request-method": "POST"})):
        decision = RULES.decide(
            EdgeCase("", "", method=method, origin=origin, headers=asked).head("/v1/models")
        )
        assert cors_of(decision) == (origin if ORIGINS[origin] else None)
        refused = BAD_ORIGIN if not ORIGINS[origin] else PREFLIGHT
        assert shown(decision) == (refused if asked else PASSES)


async def test_the_page_has_one_policy() -> None:
    """The page keeps its own policy; everything else may load nothing and stand in no frame."""
    async with ServiceWorld(one=healthy(), server=SERVER) as world:
        page, models = [
            await send(world.service.asgi, EdgeCase("", "").head(path)) for path in ("/", "/v1/models")
        ]
        assert "script-src 'self'" in page.all("content-security-policy")[0]
        assert page.all("permissions-policy") and not models.all("permissions-policy")
        assert models.all("content-security-policy") == ["default-src 'none'; frame-ancestors 'none'"]


async def test_preflight() -> None:
    """A preflight names the headers that official SDKs send from a page, and no others."""
    sdk = (
        "authorization, Content-Type, x-stainless-lang, x-stainless-retry-count, x-deadline-ms, "
        "x-dub5-delivery, x-request-id, cache-control"
    )
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": f"{sdk}, cookie, x-evil",
    }
    case = EdgeCase("", "", method="OPTIONS", origin=ORIGIN, headers=asked)
    async with ServiceWorld(one=healthy(), server=SERVER) as world:
        response = await send(world.service.asgi, case.head("/v1/chat/completions"))

    assert response.all("access-control-allow-headers") == [sdk.lower()]
    assert response.all("access-control-allow-methods") == [METHODS.decode()]
    assert response.all("access-control-max-age") == ["7200"]
    assert set(response.all("vary")) == {"origin", "access-control-request-headers"}
    assert response.all("access-control-allow-credentials") == []


async def test_redirect() -> None:
    """A redirect goes to the same path and query on our own host, without the port, and is not kept."""
    case = EdgeCase("", "", host="chat.example.com:8080", proto="http")
    async with ServiceWorld(one=healthy(), server=SERVER) as world:
        response = await send(world.service.asgi, case.head("//evil.test/%0d%0aset-cookie:x?a=b&c=%20"))
    assert response.all("location") == ["https://chat.example.com//evil.test/%0d%0aset-cookie:x?a=b&c=%20"]
    assert response.all("cache-control") == ["no-store"]


@pytest.mark.parametrize(("given", "taken"), [("mine-1", True), ("not good", False), ("", False)])
async def test_request_id(given: str, taken: bool) -> None:
    """A refusal has the id that the caller gave, as every other error has, if it is well formed."""
    async with ServiceWorld(one=healthy(), server=SERVER) as world:
        case = EdgeCase("", "", host="evil.test", headers={"x-request-id": given})
        response = await send(world.service.asgi, case.head("/v1/models"))
        (id_,) = response.all("x-request-id")
        assert (id_ == given) == taken and id_ == json.loads(response.body)["error"]["id"]


def test_require() -> None:
    """With `require` nothing is redirected."""
    rules = EdgeRules(replace(SERVER, https="require"))
    assert shown(rules.decide(EdgeCase("", "", proto="http").head("/"))) == NO_TLS


@pytest.mark.parametrize("host", ["evil.test/", "a b", "", "[::1", "a\r\nb", "x" * 300 + "@"])
def test_no_redirect_to_a_strange_host(host: str) -> None:
    """Without a list of hosts, a redirect goes to a plain name alone."""
    rules = EdgeRules(replace(SERVER, allowed_hosts=()))
    assert shown(rules.decide(EdgeCase("", "", host=host, proto="http").head("/"))) == NO_TLS
    assert shown(rules.decide(EdgeCase("", "", host="any.test", proto="http").head("/"))) == REDIRECT


def test_credentials() -> None:
    """Only an origin that is listed letter by letter may send cookies: others can take a preview's name."""
    rules = EdgeRules(SERVER, lambda: True)

    def names(origin: str) -> set[bytes]:
        return {name for name, _ in rules.decide(EdgeCase("", "", origin=origin).head("/")).headers}

    assert b"access-control-allow-credentials" in names(ORIGIN)
    assert b"access-control-allow-credentials" not in names("https://dub5-git-main-acme-team.vercel.app")
    assert b"access-control-allow-origin" not in names("https://evil.test")


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ((), PASSES),  # a program
        (f"https://{HOST}", PASSES),
        (ORIGIN, PASSES),
        ("https://evil.test", BAD_ORIGIN),
        (f"https://{HOST}.evil.test", BAD_ORIGIN),
        ("null", BAD_ORIGIN),
        ((ORIGIN, ORIGIN), BAD_ORIGIN),
    ],
)
def test_websockets(origin: str | tuple[str, ...], expected: str) -> None:
    """A WebSocket is opened by our own page, by a listed one, or by a program: no browser asks first."""
    for scheme in ("ws", "wss"):
        assert shown(RULES.decide(EdgeCase("", "", scheme=scheme, origin=origin).head("/v1/ws"))) == expected
    assert shown(RULES.decide(EdgeCase("", "", scheme="ws", proto="http").head("/v1/ws"))) == NO_TLS


async def test_nothing_set() -> None:
    """Where nothing is set, there is no edge."""
    assert not EdgeRules.are_set(ServerSettings())
    async with ServiceWorld(one=healthy()) as world:
        assert not isinstance(world.service.asgi, EdgeApp)
        assert "x-content-type-options" not in (await world.client.request("GET", "/health")).headers
    assert isinstance(ServiceWorld(one=healthy(), server=SERVER).service.asgi, EdgeApp)
    for part in (
        {"allowed_hosts": (HOST,)},
        {"origins": (ORIGIN,)},
        {"https": "require"},
        {"trusted_proxies": (PROXY,)},
    ):
        assert EdgeRules.are_set(ServerSettings(**part))


async def test_security_events() -> None:
    """A refused host and a refused origin are noted with the client's address."""
    noted: list[SecurityNoted] = []
    async with ServiceWorld(one=healthy(), server=SERVER) as world:
        world.service.events.subscribe(noted.append)  # type: ignore[arg-type]
        forwarded = {"x-forwarded-for": f"1.1.1.1, {STRANGER}"}
        evil = EdgeCase("", "", host="evil.test", headers=forwarded).head("/v1/models?key=secret")
        await send(world.service.asgi, evil)
        asked = {"access-control-request-method": "POST"}
        foreign = EdgeCase("", "", method="OPTIONS", origin="https://evil.test", headers=asked, peer=PROXY)
        await send(world.service.asgi, foreign.head("/v1/models"))
        assert (world.happened("host_refused"), world.happened("origin_refused")) == (1, 1)
    assert [tuple(map(str, (event.what, event.who, event.where))) for event in noted] == [
        ("host_refused", STRANGER, "/v1/models"),
        ("origin_refused", PROXY, "/v1/models"),
    ]


async def test_absolute_target() -> None:
    """On a real connection a foreign absolute target gets no further than its Host header does."""
    async with ServiceWorld(one=healthy(), server=replace(SERVER, https="off")) as world:
        for target, hosts, status in (
            ("http://chat.example.com/health", [HOST], b"200"),
            ("/health", [HOST], b"200"),
            ("/health", ["evil.test"], b"400"),
            ("http://chat.example.com/health", ["evil.test"], b"400"),
            ("/health", [HOST, "evil.test"], b"400"),
            ("/health", [], b"400"),
        ):
            connection = Connection(world.service.asgi)
            lines = "".join(f"Host: {host}\r\n" for host in hosts)
            await connection.send(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode())
            await asyncio.sleep(1)
            assert connection.received.split()[1] == status, (target, hosts)


def test_absolute_target_of_another_entry() -> None:
    """An entry that hands over whole targets has their host checked, too."""
    head = EdgeCase("", "").head("/health")
    for target, expected in (
        ("http://chat.example.com/health", PASSES),
        ("http://evil.test/health", BAD_HOST),
        ("http://chat.example.com@evil.test/", BAD_HOST),
        ("http://chat.example.com.evil.test?x", BAD_HOST),
        ("evil.test:443", BAD_HOST),
        ("*", PASSES),
    ):
        assert shown(RULES.decide(replace(head, target=target))) == expected, target


def test_exposed_headers() -> None:
    """A page may read every header that the service makes up itself."""
    source = "\n".join(
        path.read_text() for path in (ROOT / "service").rglob("*.py") if path.name != "edge_rules.py"
    )
    made = set(re.findall(r'"(x-(?:dub5|request|should|ratelimit)-[a-z-]+|retry-after[a-z-]*)"', source))
    only_asked = {"x-dub5-delivery"}
    providers_own = {name for name in made if name.startswith("x-ratelimit-")}
    assert len(made) > 8
    assert made - only_asked - providers_own - set(EXPOSED.split(", ")) == set()


NAMES = st.sampled_from(
    (
        HOST,
        "example.org",
        "a.example.org",
        "app.example.com",
        "dub5.vercel.app",
        "vercel.app",
        "evil.test",
        "localhost",
    )
)
TWISTS = st.sampled_from(
    (
        "{}",
        "{}.",
        ".{}",
        "{}.evil.test",
        "evil{}",
        "evil.{}",
        "evil@{}",
        "{}@evil.test",
        "{}:80",
        "{}:",
        "{}:x",
        "{}/",
    )
    + (
        "{}%2e",
        "%{}",
        " {}",
        "{} ",
        "\t{}",
        "{},evil.test",
        "evil.test,{}",
        "{}\\evil.test",
        "{}#",
        "{}?",
        "xn--{}",
    )
    + (
        "{}\x00",
        "{}\xe9",
        "[{}]",
        "http://{}",
        "https://{}",
        "https://{}/",
        "https://{}:443",
        "HTTPS://{}",
        "null",
    )
)
LOOKALIKES = st.builds(
    lambda name, twists, upper: _twisted(name.upper() if upper else name, twists),
    NAMES,
    st.lists(TWISTS, max_size=3),
    st.booleans(),
) | st.text(st.characters(max_codepoint=255), max_size=30)
LISTED_HOSTS = re.compile(r"(chat\.example\.com|([a-z0-9_-]+\.)+example\.org|\[::1\])(:[0-9]{1,5})?")


def _twisted(name: str, twists: list[str]) -> str:
    for twist in twists:
        name = twist.replace("{}", name)
    return name


def values(head: RequestHead, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip(" \t") for known, value in head.headers if known.lower() == name]


HEADS = st.builds(
    RequestHead,
    method=st.sampled_from(("GET", "HEAD", "POST", "OPTIONS", "BREW")),
    path=st.sampled_from((*PATHS, "/livez", "/readyz", "//livez", "/livez/", "/%6civez")),
    target=st.sampled_from((*PATHS, "/livez", "http://evil.test/livez", "*", "//x", "/\xff?\xff", "")),
    scheme=st.sampled_from(("http", "https", "ws", "wss")),
    peer=st.sampled_from((PROXY, STRANGER, None, "::ffff:10.0.0.1", "x")),
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                (b"host", b"Host", b"origin", b"x-forwarded-proto", b"x-forwarded-for", b"x-forwarded-host")
                + (b"access-control-request-method", b"access-control-request-headers", b"cookie")
            ),
            LOOKALIKES.map(lambda text: text.encode("latin-1"))
            | st.sampled_from((b"https", b"http", b"https,http", HOST.encode(), ORIGIN.encode())),
        ),
        max_size=7,
    ),
)


@given(head=HEADS)
def test_drawn_heads(head: RequestHead) -> None:
    """No head makes the rules fail, passes a host that is not listed, or lets a foreign page read."""
    decision = RULES.decide(head)
    hosts, origins = values(head, b"host"), values(head, b"origin")
    is_secure = head.scheme in ("https", "wss") or (head.peer or "").endswith("10.0.0.1")
    if decision.status in (None, 204) and head.path not in ("/livez", "/readyz"):
        assert len(hosts) == 1 and LISTED_HOSTS.fullmatch(hosts[0].lower())
        assert is_secure
    if (allowed := cors_of(decision)) is not None:
        assert origins == [allowed] and ORIGINS.get(allowed, False)
    assert decision.error is None or decision.status == decision.error.status
    for name, value in decision.headers:
        assert name == name.lower() and not re.search(rb"[\x00-\x1f\x7f-\xff]", value)


@given(head=HEADS)
def test_drawn_heads_of_the_service(head: RequestHead) -> None:
    """No head makes the service fail, whatever the edge decides."""

    async def play() -> RawResponse:
        async with ServiceWorld(one=healthy(), server=SERVER) as world:
            return await send(world.service.asgi, replace(head, scheme="http"))

    response = run(play(), seed=1)
    assert response.status < 500
    assert [response.all(name) for name in ONCE if len(response.all(name)) != 1] == []


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", [*PATHS, "/nothing", "/v1/models/x", "/v1/session", "/livez", "/web/x"])
async def test_a_query_that_is_no_text(path: str, method: str) -> None:
    """Bytes of a query that are not UTF-8 make no path fail, whether it takes the method or not."""
    async with ServiceWorld(one=healthy()) as world:
        for query in ("\xff", "\xff=\xff&deep=\xff", "deep=%ff", "deep=\x00"):
            head = RequestHead(method, path, f"{path}?{query}", "http", "127.0.0.1", [])
            assert (await send(world.service.asgi, head)).status < 500


def test_the_table_is_large_enough() -> None:
    """The tables have the size that makes them worth their name."""
    assert len(CASES) >= 40 and len(ORIGINS) >= 30
