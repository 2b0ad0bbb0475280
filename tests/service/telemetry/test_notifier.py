import asyncio
import base64
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from dub5.service import clock
from dub5.service.config.notify_checks import hook_url_problems
from dub5.service.config.settings import Secret
from dub5.service.events import Crashed, NotificationEnded, RequestEnded
from dub5.service.model import Outcome
from dub5.service.resilience.provider_keys import key_label
from dub5.service.telemetry.notifier import key_bytes
from dub5.service.telemetry.outgoing import PAUSE_S, TRIES, TRY_S, WAITING_MAX
from dub5.simulators.script import Hang, SimRequest, Wait
from dub5.simulators.virtual import run
from tests.support.hooked_world import SECRET, TOKEN, HookedWorld
from tests.support.keyed_provider import KeyedProvider
from tests.support.source import ROOT
from tests.support.world import in_turn, reply, script, status

CRASH = Crashed("r-1", "KeyError at chat.py:1")


def notified(world: HookedWorld) -> list[NotificationEnded]:
    """Return the events of messages, as they come."""
    events: list[Any] = []
    world.service.events.subscribe(events.append)
    return events


def verified(request: SimRequest, secret: bytes) -> bool:
    """Return whether one of the signatures is that of this secret, by the words of the standard."""
    headers = request.headers
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
    mine = "v1," + base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()
    return mine in headers["webhook-signature"].split(" ")


async def test_an_incident() -> None:
    """The hook is told of a crash at once, signed and in words, and once more when it is over."""
    async with HookedWorld() as world:
        world.service.events.emit(CRASH)
        world.service.events.emit(CRASH)
        await asyncio.sleep(1.0)
        (began,) = world.sent
        (request,) = world.requests
        assert began["what"] == "crash" and began["state"] == "began" and began["service"] == "dub5"
        assert began["words"] == "A defect of the service was caught: KeyError at chat.py:1."
        assert began["numbers"] == {"where": "KeyError at chat.py:1", "request": "r-1"}
        assert json.loads(request.body)["type"] == "dub5.crash.began"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", began["since"])
        assert verified(request, SECRET.encode()) and not verified(request, b"other")
        assert abs(int(request.headers["webhook-timestamp"]) - clock.wall()) < 2.0
        await asyncio.sleep(1_000.0)
        over = world.sent[1]
        assert (over["id"], over["state"], over["numbers"]["times"]) == (began["id"], "over", 2)
        assert len(world.sent) == 2
        text = (await world.client.request("GET", "/metrics")).body.decode()
        assert 'gateway_notifications_total{result="sent",to="hook",what="crash"} 2.0' in text


async def test_a_degraded_route(request_ended: Callable[..., RequestEnded]) -> None:
    """A route that begins to fail is told in words, and told again as it recovers."""
    async with HookedWorld() as world:
        for minute in range(100):
            for number in range(50):
                failed = 60 <= minute < 70 and number % 2
                outcome = Outcome.FAILED if failed else Outcome.COMPLETE
                world.service.events.emit(request_ended(outcome=outcome))
            await asyncio.sleep(60.0)
        began, over = world.sent
        assert (began["what"], began["state"], over["state"]) == ("degraded", "began", "over")
        assert began["id"] == over["id"]
        assert "of requests were not answered whole in the last 5 minutes; usual is 0 %." in began["words"]
        incidents = [one["what"] for one in world.service.board.snapshot()["incidents"]]
        assert incidents == ["route_recovered", "route_degraded"]


async def test_degraded_in_status() -> None:
    """/status names a degraded route while it is so, with its value and since when."""
    async with HookedWorld(one=status(503)) as world:
        for _ in range(40):
            await world.ask()
        await asyncio.sleep(20.0)
        (row,) = (await world.client.request("GET", "/status")).json()["degraded"]
        assert (row["route"], row["what"], row["value"], row["usual"]) == ("chat", "not_whole", 1.0, None)
        assert 0 <= clock.wall() - row["since"] < 30
        text = (await world.client.request("GET", "/metrics")).body.decode()
        assert 'gateway_route_degraded{route="chat",what="not_whole"} 1.0' in text


@pytest.mark.parametrize(
    "answer", [status(500), status(302, headers={"location": "http://x"}), script(Hang())]
)
def test_a_bad_receiver(answer: Any) -> None:
    """A hook that fails, redirects or hangs is tried three times, and no request waits for it."""

    async def play() -> None:
        async with HookedWorld(answer=answer) as world:
            events = notified(world)
            before_s = clock.now()
            assert (await world.ask()).status == 200
            usual_s = clock.now() - before_s
            world.service.events.emit(CRASH)
            before_s = clock.now()
            assert (await world.ask()).status == 200
            assert clock.now() - before_s == pytest.approx(usual_s, abs=0.02)
            await asyncio.sleep(TRIES * TRY_S + 10 * PAUSE_S)
            (ended,) = [event for event in events if type(event) is NotificationEnded]
            assert (ended.result, ended.tries, ended.to) == ("failed", TRIES, "hook")
            ids = {request.headers["webhook-id"] for request in world.requests}
            assert len(ids) == 1 and len(world.requests) == TRIES

    run(play())


async def test_a_second_try() -> None:
    """A hook that fails once gets the message again, with the same id."""
    async with HookedWorld(answer=in_turn(status(503), status(200))) as world:
        events = notified(world)
        world.service.events.emit(CRASH)
        await asyncio.sleep(30.0)
        first, second = world.requests
        assert first.headers["webhook-id"] == second.headers["webhook-id"] and first.body == second.body
        assert [e.tries for e in events if type(e) is NotificationEnded] == [2]


async def test_bounded() -> None:
    """While a hook hangs, at most so many messages wait; more are dropped, counted, and cost nothing."""
    async with HookedWorld(answer=script(Hang())) as world:
        events = notified(world)
        for number in range(WAITING_MAX + 50):
            world.service.events.emit(Crashed("r", f"KeyError at x.py:{number}"))
        dropped = [e for e in events if type(e) is NotificationEnded and e.result == "dropped"]
        assert len(dropped) == 50


async def test_a_key_that_is_revoked_under_load() -> None:
    """A key is revoked while 200 requests are sent: all are answered, and the hook is told of it once."""
    one = KeyedProvider("sk-old", "sk-other")
    async with HookedWorld(one=one, keys={"one": ("sk-old", "sk-other")}) as world:

        async def ask(after_s: float) -> int:
            await asyncio.sleep(after_s)
            return (await world.ask()).status

        asked = [asyncio.ensure_future(ask(n * 0.01)) for n in range(200)]
        await asyncio.sleep(1.0)
        one.accepted.remove("sk-old")
        assert {await answer for answer in asked} == {200}
        await asyncio.sleep(120.0)
        assert [(data["what"], data["state"]) for data in world.sent] == [("key_refused", "began")]
        assert world.sent[0]["numbers"] == {"provider": "one", "key": key_label("sk-old")}
        assert "sk-old" not in str(world.requests)


@pytest.mark.parametrize("changed", ["key", "address"])
async def test_a_refused_key_that_is_gone(changed: str) -> None:
    """The operator replaces a refused key, or moves its provider: that is the end of the incident."""
    late = script(Wait(5.0), *reply(401))
    async with HookedWorld(one=in_turn(status(401), late), keys={"one": ("sk-old",)}) as world:
        asked = [asyncio.ensure_future(world.ask()) for _ in range(2)]
        await asyncio.sleep(1)
        (provider,) = world.loaded.settings.provider
        moved = replace(world.loaded.settings, provider=(replace(provider, base_url="http://two.test/v1"),))
        another_key = world.with_keys({"one": ("sk-new",)})
        world.service.reload(another_key if changed == "key" else replace(world.loaded, settings=moved))
        assert [answer.status for answer in await asyncio.gather(*asked)] == [503, 503]
        await asyncio.sleep(600)
        told = [(data["what"], data["state"]) for data in world.sent]
        assert told == [("key_refused", "began"), ("key_refused", "over")]
        assert world.sent[1]["words"].endswith("is not in the settings any more.")


async def test_every_secret_signs() -> None:
    """While secrets are rotated, a receiver that knows either of them accepts a message."""
    base = "whsec_" + base64.b64encode(bytes(range(32))).decode()
    async with HookedWorld(secrets=(SECRET, base)) as world:
        world.service.events.emit(CRASH)
        await asyncio.sleep(1.0)
        (request,) = world.requests
        assert verified(request, SECRET.encode()) and verified(request, bytes(range(32)))


async def test_no_secret_leaves(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the address of the hook nor its secret is in a message, an event, /status or the metrics."""
    caplog.set_level(logging.DEBUG)
    async with HookedWorld(answer=status(500)) as world:
        events = notified(world)
        world.service.events.emit(CRASH)
        await asyncio.sleep(60.0)
        shown = [
            *(request.body.decode() for request in world.requests),
            *map(repr, events),
            (await world.client.request("GET", "/status")).body.decode(),
            (await world.client.request("GET", "/metrics")).body.decode(),
            caplog.text,
            repr(world.loaded.notify),
        ]
        assert all(TOKEN not in text and SECRET not in text for text in shown)


def test_addresses() -> None:
    """An address is https, or of a private network; what is wrong with one is said without it."""
    for good in (
        *("https://hooks.example.com/x?y=1", "http://127.0.0.1:9/h", "http://alertmanager:9093/"),
        *("http://10.1.2.3/x", "http://hook.internal/x", "https://[2001:db8::1]/"),
    ):
        assert hook_url_problems(good) == []
    for bad in (
        *("http://hooks.example.com/x", "ftp://x/", "https://", "https://u:p@x/", "https://x/#f", "x"),
        "https://x:99999/",
    ):
        (problem,) = hook_url_problems(bad)
        assert "example" not in problem and "99999" not in problem


def test_the_receiver_of_the_docs() -> None:
    """The receiver that the page shows accepts what is sent, and nothing that was changed or is old."""
    page = (ROOT / "docs" / "operate" / "problems.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    space: dict[str, Any] = {}
    exec(compile(code, "problems.md", "exec"), space)  # noqa: S102 the page's own example
    space["SECRET"] = SECRET.encode()

    async def play() -> None:
        async with HookedWorld() as world:
            world.service.events.emit(CRASH)
            await asyncio.sleep(1.0)
            (request,) = world.requests
            now, verify = clock.wall(), space["verify"]
            assert verify(request.headers, request.body, now)["data"]["what"] == "crash"
            for headers, body, at in (
                (request.headers, request.body + b" ", now),
                (request.headers | {"webhook-id": "msg_other"}, request.body, now),
                (request.headers, request.body, now + 3_600),
            ):
                with pytest.raises(ValueError, match=r"signature|old"):
                    verify(headers, body, at)

    run(play())


def test_key_bytes() -> None:
    """A secret with the standard's prefix is base64; another one is taken as it is."""
    assert key_bytes(Secret("whsec_AAEC")) == b"\0\1\2"
    assert key_bytes(Secret(SECRET)) == SECRET.encode()
