"""Sessions through the whole service: the routes, and requests that carry a cookie or a ticket."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.types import Receive, Scope, Send
from msgspec.structs import replace

from dub5.service.admission.sessions import DAY_S
from dub5.service.config.settings import Secret, ServerSettings, SessionSettings
from dub5.service.events import Event, RequestEnded, SecurityKind, SecurityNoted
from dub5.simulators.virtual import AppClient, AppResponse, run
from tests.support.world import ServiceWorld, body, healthy

SECRET = "a-secret-of-the-service-of-this-test"
PAGE = {"sec-fetch-site": "same-origin"}
FOREIGN_PAGE = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
FORM = {"content-type": "text/plain"}


class SessionWorld(ServiceWorld):
    """A service with sessions; `events` holds what it emitted."""

    def __init__(self, **more: Any) -> None:
        options = {"options": {"session": SessionSettings()}, "session_secrets": (SECRET,)}
        super().__init__(one=healthy(), **(options | more))
        self.events: list[Event] = []
        self.service.events.subscribe(self.events.append)

    async def begin(self, cookie: str = "", **headers: str) -> AppResponse:
        """Ask for a session, as the page does."""
        return await self.session("POST", cookie, PAGE | headers)

    async def session(
        self, method: str, cookie: str = "", headers: dict[str, str] | None = None, path: str = ""
    ) -> AppResponse:
        """Send a request to the session's routes; `cookie` is what a browser received."""
        sent = (headers or {}) | ({"cookie": cookie} if cookie else {})
        return await self.client.request(method, f"/v1/session{path}", headers=sent)

    async def label(self, **headers: str) -> str | None:
        """Ask a question, and return the session that its log line names."""
        reply = await self.ask(headers=headers)
        assert reply.status == 200, reply.body
        return self.ended()

    def ended(self) -> str | None:
        """Return the session of the request that ended last."""
        return [event for event in self.events if isinstance(event, RequestEnded)][-1].session

    def noted(self) -> list[SecurityKind]:
        """Return the security events so far."""
        return [event.what for event in self.events if isinstance(event, SecurityNoted)]

    def reload(self, *secrets: str, **more: Any) -> None:
        """Use these secrets from now on."""
        settings = replace(self.service.settings, **more)
        self.service.reload(
            replace(self.loaded, settings=settings, session_secrets=tuple(map(Secret, secrets)))
        )


def cookie_of(reply: AppResponse) -> str:
    """Return what a browser sends from now on."""
    return reply.headers["set-cookie"].partition(";")[0]


def code_of(reply: AppResponse) -> str:
    """Return the code of an error in the one shape."""
    error = reply.json()["error"]
    assert error["id"] == reply.headers["x-request-id"] and error["suggestion"] in error["message"]
    return str(error["code"])


def later(s: float) -> None:
    """Let time pass on the clock of the wall; the probes of all these days would take minutes."""
    asyncio.get_running_loop().jump_wall(s)  # type: ignore[attr-defined]  # the virtual loop


async def test_a_visit() -> None:
    """A page gets a session once; each of its requests is logged with it, and asks for nothing else."""
    async with SessionWorld() as world:
        first = await world.begin()
        again = await world.begin(cookie_of(first))

        assert (first.status, again.status) == (201, 200)
        assert "HttpOnly" in first.headers["set-cookie"] and "set-cookie" not in again.headers
        assert first.headers["cache-control"] == "no-store"
        label = first.json()["session"]
        assert first.json() == {"session": label, "expires_in_s": 30 * DAY_S}
        assert again.json()["session"] == label
        assert await world.label(cookie=cookie_of(first), **PAGE) == label
        assert await world.label() is None
        assert await world.label(cookie="mydub5=x; dub5=; a=dub5=x", **FOREIGN_PAGE) is None
        assert world.noted() == []


async def test_renewal() -> None:
    """A cookie is sent anew when it is older than a day; who comes at least each month keeps the session."""
    async with SessionWorld() as world:
        first = await world.begin()
        cookie = cookie_of(first)
        for visit in range(3):
            later(29 * DAY_S)
            reply = await world.begin(cookie)
            assert (visit, reply.status, reply.json()["session"]) == (visit, 200, first.json()["session"])
            cookie = cookie_of(reply)
        later(31 * DAY_S)
        late = await world.begin(cookie)
        assert late.status == 201 and late.json()["session"] != first.json()["session"]


async def test_renewal_of_a_short_session() -> None:
    """A session of one day lasts as long as its visitor comes twice a day: renewing begins before the end."""
    async with SessionWorld(options={"session": SessionSettings(days=1)}) as world:
        first = await world.begin()
        cookie = cookie_of(first)
        for _ in range(4):
            later(13 * 3600)
            reply = await world.begin(cookie)
            assert (reply.status, reply.json()["session"]) == (200, first.json()["session"])
            cookie = cookie_of(reply)


async def test_https() -> None:
    """By https the cookie is one that only this host can have set; one of the http name is not looked at."""
    async with SessionWorld() as world:

        async def by_https(scope: Scope, receive: Receive, send: Send) -> None:
            await world.service.asgi({**scope, "scheme": "https"}, receive, send)  # type: ignore[typeddict-item, misc]

        client = AppClient(by_https, lifespan=False)
        reply = await client.request("POST", "/v1/session", headers=PAGE)
        cookie = cookie_of(reply)
        assert cookie.startswith("__Host-dub5=") and reply.headers["set-cookie"].endswith("; Secure")
        sent = PAGE | {"cookie": cookie}
        assert (await client.request("POST", "/v1/session", headers=sent)).status == 200
        planted = PAGE | {"cookie": cookie.removeprefix("__Host-")}
        assert (await client.request("POST", "/v1/session", headers=planted)).status == 201


async def test_behind_a_proxy() -> None:
    """A trusted proxy that ends TLS says that it was https; nobody else may."""
    server = ServerSettings(trusted_proxies=("10.0.0.0/8",))
    async with SessionWorld(server=server) as world:
        for peer, name in (("10.0.0.7", "__Host-dub5"), ("192.0.2.1", "dub5")):
            client = AppClient(world.service.asgi, client=(peer, 1), lifespan=False)
            said = PAGE | {"x-forwarded-proto": "https", "x-forwarded-for": "198.51.100.9"}
            reply = await client.request("POST", "/v1/session", headers=said)
            assert cookie_of(reply).partition("=")[0] == name
            await client.request("POST", "/v1/session", headers=said | {"cookie": f"{name}=x"})
        assert [event.who for event in world.events if isinstance(event, SecurityNoted)] == [
            "198.51.100.9",
            "192.0.2.1",
        ]


async def test_listed_origins() -> None:
    """A page of a listed origin may use the cookie, where the browser sends it; a preview of it may not."""
    server = ServerSettings(origins=("https://app.example", "vercel:app/team"))
    async with SessionWorld(server=server) as world:
        first = await world.begin()
        sent = {"cookie": cookie_of(first), "sec-fetch-site": "same-site"}
        listed = await world.ask(headers=sent | {"origin": "https://app.example"})
        assert (listed.status, world.ended()) == (200, first.json()["session"])
        assert listed.headers["access-control-allow-credentials"] == "true"
        preview = await world.ask(headers=sent | {"origin": "https://app-1-team.vercel.app"})
        assert (preview.status, code_of(preview)) == (403, "csrf_refused")
        assert "access-control-allow-credentials" not in preview.headers


async def test_sessions_that_a_reload_turns_on() -> None:
    """Pages of listed origins may send the cookie from then on, until a reload turns sessions off."""
    page = "https://app.example.com"
    async with SessionWorld(server=ServerSettings(origins=(page,)), options={}) as world:
        for settings, allowed in ((None, None), (SessionSettings(), "true"), (None, None)):
            world.reload(SECRET, session=settings)
            reply = await world.session("POST", headers={"origin": page})
            assert reply.status == (404 if settings is None else 201)
            assert reply.headers.get("access-control-allow-credentials") == allowed


async def test_end() -> None:
    """DELETE takes the cookie away; the next visit is another session."""
    async with SessionWorld() as world:
        cookie = cookie_of(await world.begin())
        reply = await world.session("DELETE", cookie, PAGE)
        assert (reply.status, reply.body) == (204, b"")
        assert cookie_of(reply) == "dub5=" and "Max-Age=0" in reply.headers["set-cookie"]
        assert (await world.begin(cookie_of(reply))).status == 201
        assert world.noted() == []


async def test_tickets() -> None:
    """A ticket is the session's for 30 s, by `Authorization`, from any page; it gives the next ticket."""
    async with SessionWorld() as world:
        first = await world.begin()
        reply = await world.session("POST", cookie_of(first), PAGE, "/ticket")
        label, ticket = first.json()["session"], reply.json()["ticket"]

        assert reply.status == 201 and "set-cookie" not in reply.headers
        assert reply.json() == {"session": label, "ticket": ticket, "expires_in_s": 30}
        assert await world.label(authorization=f"Ticket {ticket}", **FOREIGN_PAGE) == label
        await asyncio.sleep(25)
        sent = {"authorization": f"ticket {ticket}"}
        renewed = await world.session("POST", "", sent, "/ticket")
        await asyncio.sleep(25)
        assert renewed.json()["session"] == label
        assert await world.label(authorization=f"Ticket {renewed.json()['ticket']}") == label
        assert world.noted() == []
        assert await world.label(authorization=f"Ticket {ticket}") is None
        assert world.noted() == [SecurityKind.BAD_TICKET]


async def test_a_ticket_without_a_session() -> None:
    """A page whose browser keeps the cookie from us begins a session with its first ticket."""
    async with SessionWorld() as world:
        reply = await world.session("POST", path="/ticket")
        assert reply.status == 201
        sent = f"Ticket {reply.json()['ticket']}"
        assert await world.label(authorization=sent) == reply.json()["session"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_forgery(path: str) -> None:
    """With the cookie, what another site may have sent is refused; the same without the cookie is not."""
    async with SessionWorld() as world:
        first = await world.begin()
        cookie = {"cookie": cookie_of(first)}
        data = json.dumps(body() | {"input": "Hi"}).encode()
        for head in (FOREIGN_PAGE, PAGE | FORM, {}, {"origin": "null"}):
            reply = await world.client.request(
                "POST", path, headers={"content-type": "application/json"} | cookie | head, body=data
            )
            assert (reply.status, code_of(reply)) == (403, "csrf_refused"), head
        assert world.noted() == [SecurityKind.CSRF_REFUSED] * 4
        assert world.asked["one"] == []

        plain = await world.client.request("POST", path, headers=FOREIGN_PAGE | FORM, body=data)
        assert (plain.status, code_of(plain)) == (400, "invalid_request")  # as ever: it is not JSON
        free = await world.client.request(
            "POST", path, headers=FOREIGN_PAGE | {"content-type": "application/json"}, body=data
        )
        assert free.status == 200 or path == "/v1/embeddings"
        assert world.noted() == [SecurityKind.CSRF_REFUSED] * 4


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_forged_sessions(method: str) -> None:
    """Another site can neither replace nor end a visitor's session, though its requests carry no cookie."""
    async with SessionWorld() as world:
        reply = await world.session(method, headers=FOREIGN_PAGE)
        assert (reply.status, code_of(reply)) == (403, "csrf_refused")
        assert "set-cookie" not in reply.headers
        cookie = cookie_of(await world.begin())
        assert (await world.session(method, cookie, FOREIGN_PAGE)).status == 403
        assert (await world.session(method)).status in (201, 204)  # a program, without a cookie


async def test_bad_cookies() -> None:
    """A cookie of nobody's is no session and no error; it is noted, and the next POST replaces it."""
    async with SessionWorld() as world:
        ticket = (await world.session("POST", path="/ticket")).json()["ticket"]
        async with SessionWorld(session_secrets=("another-service",)) as other:
            foreign = cookie_of(await other.begin())
        for bad in ("dub5=x", "dub5=" + "x" * 60_000, "dub5=\xe9.\xff.\x80", f"dub5={ticket}", foreign):
            assert await world.label(cookie=bad, **FOREIGN_PAGE) is None
            reply = await world.begin(bad)
            assert reply.status == 201
            assert await world.label(cookie=cookie_of(reply), **PAGE) == reply.json()["session"]
        assert world.noted() == [SecurityKind.BAD_SESSION] * 10
        assert await world.label(authorization=f"Ticket {foreign.removeprefix('dub5=')}") is None
        assert world.noted()[-1] is SecurityKind.BAD_TICKET


async def test_several_cookie_headers() -> None:
    """A session is found in any of them, by a question and by the session's routes."""
    async with SessionWorld() as world:
        first = await world.begin()
        other = (b"cookie", b"a=b")

        async def with_more(scope: Scope, receive: Receive, send: Send) -> None:
            headers = [other, *scope["headers"], other]
            await world.service.asgi({**scope, "headers": headers}, receive, send)  # type: ignore[arg-type,misc]

        client = AppClient(with_more, lifespan=False)
        headers = PAGE | {"cookie": cookie_of(first)}
        again = await client.request("POST", "/v1/session", headers=headers)
        assert (again.status, again.json()["session"]) == (200, first.json()["session"])
        await client.request("POST", "/v1/chat/completions", json=body(), headers=headers)
        assert world.ended() == first.json()["session"]


async def test_rotation() -> None:
    """A reload rotates: the new secret signs and the old one is accepted, until it is taken out."""
    async with SessionWorld() as world:
        first = await world.begin()
        old, label = cookie_of(first), first.json()["session"]
        world.reload("the-new-secret", SECRET)
        assert await world.label(cookie=old, **PAGE) == label
        later(DAY_S + 1)
        new = cookie_of(await world.begin(old))
        world.reload("the-new-secret")
        assert await world.label(cookie=new, **PAGE) == label
        assert await world.label(cookie=old, **PAGE) is None


async def test_a_secret_of_our_own() -> None:
    """Without a secret in the settings one is made; it outlives a reload, and no other process knows it."""
    async with SessionWorld(session_secrets=()) as world, SessionWorld(session_secrets=()) as other:
        cookie = cookie_of(await world.begin())
        world.reload()
        assert (await world.begin(cookie)).status == 200
        assert (await other.begin(cookie)).status == 201


async def test_no_sessions() -> None:
    """Without the table there are no such paths, and no cookie is looked at; a reload turns them on."""
    async with SessionWorld(options={}) as world:
        for method, path in (("POST", ""), ("DELETE", ""), ("POST", "/ticket")):
            reply = await world.session(method, path=path)
            assert (reply.status, code_of(reply)) == (404, "not_found")
        assert "sessions" not in (await world.client.request("GET", "/v1/models")).json()
        assert await world.label(cookie="dub5=x", authorization="Ticket x", **FOREIGN_PAGE) is None
        assert world.noted() == []

        world.reload(SECRET, session=SessionSettings())
        assert (await world.client.request("GET", "/v1/models")).json()["sessions"] is True
        cookie = cookie_of(await world.begin())
        world.reload(session=None)
        assert (await world.begin(cookie)).status == 404


async def test_caller_keys() -> None:
    """Where callers have keys, a session needs one, too; so does a ticket, which stands for it as long as
    the key is valid."""
    async with SessionWorld(caller_keys=("key-1",)) as world:
        assert (await world.begin()).status == 401
        key = {"authorization": "Bearer key-1"}
        first = await world.begin(**key)
        ticket = await world.session("POST", cookie_of(first), PAGE | key, "/ticket")
        assert (first.status, ticket.status) == (201, 201)
        assert await world.label(cookie=cookie_of(first), **key, **PAGE) == first.json()["session"]
        sent = {"authorization": f"Ticket {ticket.json()['ticket']}"}
        assert (await world.ask(headers=sent)).status == 200
        assert len({event.caller for event in world.events if isinstance(event, RequestEnded)}) == 1

        world.service.reload(replace(world.loaded, caller_keys=(Secret("key-2"),)))
        assert (await world.ask(headers=sent)).status == 401  # the key was revoked


async def test_clock_set_back() -> None:
    """A clock that was set back by hours, and forward again, ends no session."""
    async with SessionWorld() as world:
        first = await world.begin()
        for jump_s in (-7200, 14_400, -7200):
            later(jump_s)
            reply = await world.begin(cookie_of(first))
            assert (reply.status, reply.json()["session"]) == (200, first.json()["session"])


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=200))
def test_any_cookie(text: str) -> None:
    """Whatever a Cookie header holds, a question is answered, and no session comes of it."""

    async def ask() -> None:
        async with SessionWorld() as world:
            assert await world.label(cookie=text) is None
            assert await world.label(cookie=f"dub5={text}", authorization=f"Ticket {text}") is None
            assert (await world.begin(f"dub5={text}")).status == 201

    run(ask())
