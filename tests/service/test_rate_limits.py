"""Rate limits through the whole service: who is counted, what every answer says, and what is not counted."""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from dub5.service import clock
from dub5.service.admission.rate_limit import UNDERWAY_S
from dub5.service.config.options import LimitOptions, LimitsOptions
from dub5.service.config.settings import LoadedSettings, Secret, ServerSettings, SessionSettings
from dub5.service.events import Event, RateLimitHit, SecurityKind, SecurityNoted
from dub5.simulators.virtual import AppClient, AppResponse
from tests.support.source import ROOT
from tests.support.world import ServiceWorld, body, healthy, text_of

CHAT = "/v1/chat/completions"
PAGE = {"sec-fetch-site": "same-origin"}
KEYS = ("one-key-of-a-caller", "another-key-of-a-caller")
VARIABLES = ("KEY_ONE", "KEY_TWO")
SAYS_WHEN = ("retry-after", "retry-after-ms", "x-should-retry")
ANSWERED = {"x-dub5-route", "x-dub5-target", "x-dub5-trail"}


class LimitedWorld(ServiceWorld):
    """A service with rate limits; `events` holds what it emitted."""

    def __init__(
        self,
        *,
        limits: LimitsOptions,
        sessions: bool = False,
        keys: bool = False,
        trusted: tuple[str, ...] = (),
    ) -> None:
        options = {"limits": limits} | ({"session": SessionSettings()} if sessions else {})
        server = ServerSettings(caller_keys_env=VARIABLES if keys else (), trusted_proxies=trusted)
        super().__init__(one=healthy(), server=server, options=options, caller_keys=KEYS if keys else ())
        self.events: list[Event] = []
        self.service.events.subscribe(self.events.append)

    async def statuses(self, count: int, **more: Any) -> list[int]:
        """Send requests, one after another; return their statuses."""
        return [(await self.ask(**more)).status for _ in range(count)]

    async def cookie(self) -> Mapping[str, str]:
        """Begin a session as the page does; return what its browser sends from then on."""
        reply = await self.client.request("POST", "/v1/session", headers=PAGE)
        return PAGE | {"cookie": reply.headers["set-cookie"].partition(";")[0]}

    def client_at(self, address: str) -> AppClient:
        """Return a client with another address."""
        return AppClient(self.service.asgi, client=(address, 50000), lifespan=False)

    def reload(self, limits: LimitsOptions) -> None:
        """Use these limits from now on."""
        settings = replace(self.service.settings, limits=limits)
        secrets = {"one": (Secret("sk-one"),)}
        self.service.reload(LoadedSettings(settings, secrets, ()))


def ip(count: int, window_s: int = 60, **more: Any) -> LimitsOptions:
    return LimitsOptions(ip=LimitOptions(count, window_s), **more)


def key(number: int) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[number]}"}


def told(reply: AppResponse) -> tuple[str, ...]:
    """Return the limit that the headers tell: name, then count, what is left and the time as OpenAI's say."""
    headers = reply.headers
    openai = [headers[f"x-ratelimit-{part}-requests"] for part in ("limit", "remaining", "reset")]
    name, quota, window = headers["ratelimit-policy"].split(";")
    assert headers["ratelimit"] == f"{name};r={openai[1]};t={openai[2].removesuffix('s')}"
    assert quota == f"q={openai[0]}" and window.startswith("w=")
    return (name.strip('"'), *openai)


async def test_the_21st_question_within_a_minute() -> None:
    """A session may ask 20 questions in any minute, though nobody has set a limit; the 21st says when."""
    async with LimitedWorld(limits=LimitsOptions(), sessions=True) as world:
        browser = await world.cookie()
        began_s = clock.now()
        for number in range(20):
            reply = await world.ask(headers=browser)
            assert reply.status == 200
            assert told(reply)[:3] == ("session", "20", str(19 - number))
            await asyncio.sleep(1.0)
        refused = await world.ask(headers=browser)
        error = refused.json()["error"]
        wait_s = 60.0 - (clock.now() - began_s)
        assert refused.status == 429 and told(refused) == ("session", "20", "0", "38s")
        assert (error["code"], error["type"]) == ("rate_limited", "rate_limit_error")
        assert error["retry_after"] == pytest.approx(wait_s, abs=0.002)
        assert refused.headers["retry-after"] == "38" and refused.headers["x-should-retry"] == "true"
        assert int(refused.headers["retry-after-ms"]) == round(error["retry_after"] * 1000)
        assert error["message"] == (
            "This session may send 20 requests in 60 s, and has sent them. Come again in 38 s."
            " Wait as long as Retry-After says."
        )
        assert (await world.ask(headers=await world.cookie())).status == 200, "another session is free"
        await asyncio.sleep(int(refused.headers["retry-after-ms"]) / 1000)
        assert (await world.ask(headers=browser)).status == 200
        assert world.outcomes() == {"complete": 22, "refused": 1}
        assert world.happened("rate_limited") == 1
        assert len(world.asked["one"]) == 22


async def test_streams_and_embeddings_say_it_too() -> None:
    """The headers are on the head of a stream, and on a refusal of an embedding."""
    async with LimitedWorld(limits=ip(1)) as world:
        async with world.stream() as reply:
            data = await reply.body()
            assert told(reply) == ("ip", "1", "0", "60s") and "world" in text_of(data)
        refused = await world.client.request("POST", "/v1/embeddings", json={"model": "chat", "input": "x"})
        assert refused.status == 429 and told(refused)[:3] == ("ip", "1", "0")


async def test_an_answer_that_fails_says_it_too() -> None:
    """What is refused after it was counted has the headers; what was refused before has not."""
    async with LimitedWorld(limits=ip(5), keys=True) as world:
        unknown = await world.ask(headers=key(0), model="nope")
        assert unknown.status == 404 and told(unknown) == ("ip", "5", "4", "60s")
        assert "ratelimit" not in (await world.ask()).headers, "an unknown key: 401"


async def test_a_request_of_several_limits_takes_all_or_none() -> None:
    """The tightest limit is told; what one limit refuses is not counted by the other."""
    limits = LimitsOptions(caller=LimitOptions(2, 10), ip=LimitOptions(4, 60))
    async with LimitedWorld(limits=limits, keys=True) as world:
        assert await world.statuses(5, headers=key(0)) == [200, 200, 429, 429, 429]
        assert told(await world.ask(headers=key(1))) == ("ip", "4", "1", "60s")
        await asyncio.sleep(10.0)
        assert told(await world.ask(headers=key(0))) == ("ip", "4", "0", "50s")
        refused = await world.ask(headers=key(0))
        assert told(refused) == ("ip", "4", "0", "50s") and refused.status == 429


async def test_premium_callers_are_not_counted() -> None:
    """A caller named in limits.premium has no limit and no headers, and takes nothing from others."""
    limits = LimitsOptions(caller=LimitOptions(1), ip=LimitOptions(2), premium=("KEY_TWO",))
    async with LimitedWorld(limits=limits, keys=True) as world:
        assert await world.statuses(5, headers=key(1)) == [200] * 5
        assert await world.statuses(2, headers=key(0)) == [200, 429]
        assert "ratelimit" not in (await world.ask(headers=key(1))).headers


async def test_forged_addresses_buy_nothing() -> None:
    """Whoever is no trusted proxy may write anything into X-Forwarded-For: it counts as its own address."""
    async with LimitedWorld(limits=ip(2)) as world:
        forged = [{"x-forwarded-for": f"203.0.113.{number}"} for number in range(5)]
        assert [(await world.ask(headers=one)).status for one in forged] == [200, 200, 429, 429, 429]
        other = await world.client_at("198.51.100.7").request("POST", CHAT, json=body())
        assert other.status == 200


async def test_clients_behind_a_trusted_proxy_are_told_apart() -> None:
    """Behind a proxy it is the last hop that counts; what a client writes before it buys nothing."""
    async with LimitedWorld(limits=ip(2), trusted=("127.0.0.0/8",)) as world:
        forged = [{"x-forwarded-for": f"198.51.100.{number}, 203.0.113.7"} for number in range(4)]
        assert [(await world.ask(headers=one)).status for one in forged] == [200, 200, 429, 429]
        assert await world.statuses(1, headers={"x-forwarded-for": "203.0.113.8"}) == [200]


async def test_one_network_of_ipv6_is_one_address() -> None:
    """The addresses of a /64 network count together: whoever has one of them has all."""
    async with LimitedWorld(limits=ip(2)) as world:
        clients = [world.client_at(f"2001:db8:0:{network}::{host}") for network, host in ((1, 1), (1, 2))]
        statuses = [(await client.request("POST", CHAT, json=body())).status for client in clients * 2]
        assert statuses == [200, 200, 429, 429]
        assert (await world.client_at("2001:db8:0:2::1").request("POST", CHAT, json=body())).status == 200


async def test_health_and_pages_are_never_counted() -> None:
    """Only questions count."""
    async with LimitedWorld(limits=ip(1)) as world:
        for path in ("/livez", "/readyz", "/health", "/", "/v1/models", "/status", "/metrics") * 2:
            reply = await world.client.request("GET", path)
            assert reply.status == 200 and "ratelimit" not in reply.headers, path
        assert (await world.ask()).status == 200


async def test_a_refused_body_is_never_read() -> None:
    """A refusal costs the head of the request: of a body of 25 MB no byte is read."""
    async with LimitedWorld(limits=ip(1)) as world:
        await world.ask()

        async def receive() -> Any:
            raise AssertionError("the body was read")

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = world.client._scope("POST", CHAT, [(b"content-length", b"26214400")])
        await world.service.asgi(scope, receive, send)
        assert [message.get("status") for message in sent] == [429, None]


async def test_a_client_that_obeys_is_never_blocked() -> None:
    """A client that waits for as long as it is told gets all that the limit allows, for an hour."""
    async with LimitedWorld(limits=ip(5, 10, strikes=1)) as world:
        answered = 0
        while clock.now() < 3_600.0:
            reply = await world.ask()
            answered += reply.status == 200
            if reply.status == 429:
                await asyncio.sleep(int(reply.headers["retry-after-ms"]) / 1000)
        assert answered == pytest.approx(1_800, abs=5)
        assert not any(isinstance(event, SecurityNoted) for event in world.events)


async def test_a_client_that_does_not_wait_is_blocked() -> None:
    """The block is noted, told with its end, and lasts as long as that; then all is as before."""
    async with LimitedWorld(limits=ip(1, 30, strikes=3, block_s=120.0)) as world:
        assert await world.statuses(2) == [200, 429]
        await asyncio.sleep(UNDERWAY_S)
        assert await world.statuses(2) == [429, 429]
        assert not world.happened("rate_abuse")
        blocked = await world.ask()
        assert told(blocked) == ("ip", "1", "0", "120s") and blocked.headers["x-should-retry"] == "false"
        assert "is blocked, because it did not wait" in blocked.json()["error"]["message"]
        assert world.happened("rate_abuse") == 1
        (noted,) = (event for event in world.events if isinstance(event, SecurityNoted))
        assert (noted.what, noted.who) == (SecurityKind.RATE_ABUSE, "127.0.0.1")
        await asyncio.sleep(119.0)
        assert await world.statuses(3) == [429, 429, 429]
        hits = [event.blocked for event in world.events if isinstance(event, RateLimitHit)]
        assert hits == [False, False, False, True, True, True, True]
        await asyncio.sleep(1.0)
        assert await world.statuses(2) == [200, 429]
        assert world.happened("rate_abuse") == 1


@pytest.mark.parametrize("asked_at_s", [(), (3.0,), (9.9,)])
async def test_a_block_that_is_shorter_than_the_window(asked_at_s: Sequence[float]) -> None:
    """What a blocked client is told is never too short: who waits that long is answered."""
    async with LimitedWorld(limits=ip(1, 600, strikes=1, block_s=10.0)) as world:
        assert await world.statuses(2) == [200, 429]
        await asyncio.sleep(UNDERWAY_S)
        refused = await world.ask()
        assert world.happened("rate_abuse") == 1
        for at_s in asked_at_s:
            await asyncio.sleep(at_s)
            refused = await world.ask()
            assert "is blocked" in refused.json()["error"]["message"]
        assert refused.headers["x-should-retry"] == "false"
        await asyncio.sleep(int(refused.headers["retry-after-ms"]) / 1000)
        assert await world.statuses(1) == [200]


async def test_neighbours_are_not_blocked() -> None:
    """Twenty people behind one address who wait when told are never blocked; one who does not is, alone."""
    limits = ip(10, 20, session=LimitOptions(5, 20), strikes=3, block_s=600.0)
    async with LimitedWorld(limits=limits, sessions=True) as world:
        people = [await world.cookie() for _ in range(20)]

        async def person(number: int) -> None:
            await asyncio.sleep(float(number))
            while clock.now() < 600.0:
                reply = await world.ask(headers=people[number])
                await asyncio.sleep(int(reply.headers.get("retry-after-ms", "3000")) / 1000)

        await asyncio.gather(*map(person, range(20)))
        assert world.happened("rate_limited") > 100 and not world.happened("rate_abuse")
        await asyncio.sleep(20.0)
        impatient, patient = people[:2]
        for _ in range(12):
            await world.ask(headers=impatient)
            await asyncio.sleep(1.0)
        assert world.happened("rate_abuse") == 1
        await asyncio.sleep(20.0)
        assert await world.statuses(1, headers=impatient) == [429]
        assert await world.statuses(1, headers=patient) == [200]


async def test_a_reload_keeps_what_was_counted() -> None:
    """A limit that stays equal keeps its log; one that changes begins anew."""
    async with LimitedWorld(limits=ip(2)) as world:
        assert await world.statuses(2) == [200, 200]
        world.reload(ip(2, strikes=9))
        assert await world.statuses(1) == [429]
        world.reload(ip(3))
        assert await world.statuses(4) == [200, 200, 200, 429]
        world.reload(LimitsOptions())
        assert "ratelimit" not in (await world.ask()).headers


async def test_the_page_shows_what_is_sent() -> None:
    """docs/use/limits.md shows the headers of a 21st question as they are, and explains each of them."""
    page = (ROOT / "docs/use/limits.md").read_text()
    (shown,) = re.findall(r"```http\n(.*?)```", page, re.DOTALL)
    explained = re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)
    async with LimitedWorld(limits=LimitsOptions(), sessions=True) as world:
        browser = await world.cookie()
        plain = (await world.client.request("POST", CHAT, json=body(model="nope"))).headers
        for _ in range(20):
            accepted = await world.ask(headers=browser)
            await asyncio.sleep(1.0)
        refused = (await world.ask(headers=browser)).headers
    assert [line.partition(": ")[::2] for line in shown.splitlines()] == [
        (name, refused[name]) for name in (*SAYS_WHEN, *(name for name in refused if "ratelimit" in name))
    ]
    assert set(explained) == set(SAYS_WHEN) | (set(accepted.headers) - set(plain) - ANSWERED)


@contextmanager
def host_clock_jumps(by_s: Sequence[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the host's wall clock jump at each reading."""
    left = list(by_s)
    with monkeypatch.context() as patch:
        patch.setattr(clock.time, "time", lambda: left.pop(0) if len(left) > 1 else left[0])
        yield


async def test_a_clock_that_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit counts by the loop's clock: the host's may jump by a day in either direction."""
    with host_clock_jumps((86_400.0, 0.0, -86_400.0, 1e9), monkeypatch):
        async with LimitedWorld(limits=ip(2)) as world:
            assert await world.statuses(4) == [200, 200, 429, 429]
            await asyncio.sleep(60.0)
            assert await world.statuses(1) == [200]


async def test_nothing_set_is_no_gate() -> None:
    """Without limits there is no gate, and no header."""
    async with LimitedWorld(limits=LimitsOptions()) as world:
        assert world.service._current.deps.gate is None
        assert "ratelimit" not in (await world.ask()).headers
