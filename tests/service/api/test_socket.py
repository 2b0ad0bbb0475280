"""The WebSocket of conversations through the whole service, on virtual time."""

import asyncio
import json
from typing import Any

import pytest
from msgspec.structs import replace

from dub5.service.api import socket as socket_module
from dub5.service.api.socket import BAD_MESSAGES_MAX, IDLE_S, TURNS_MAX
from dub5.service.config.options import LimitOptions, LimitsOptions, TimeoutOptions
from dub5.service.config.settings import ConversationSettings, Secret, ServerSettings
from dub5.service.events import (
    Crashed,
    RequestEnded,
    SecurityKind,
    SecurityNoted,
    SocketClosed,
    SocketOpened,
    TurnEnded,
)
from dub5.service.model import Outcome
from dub5.simulators.virtual import AppClient, DatabaseFault
from tests.support.conversation_world import PAGE, ConversationWorld
from tests.support.socket_client import PATH, PROTOCOL, Talk, talking, text_of
from tests.support.world import healthy

SLOW = {"one": healthy(first_s=5.0, gap_s=1.0)}
OWN = {"origin": "http://testserver"}


def now() -> float:
    return asyncio.get_running_loop().time()


def code_of(message: Any) -> str:
    """Return the code of an error."""
    assert message["type"] == "error", message
    return str(message["error"]["code"])


async def ticket_of(world: ConversationWorld, **headers: str) -> str:
    """Ask for a ticket."""
    reply = await world.client.request("POST", "/v1/session/ticket", headers=headers)
    assert reply.status == 201, reply.body
    return str(reply.json()["ticket"])


async def test_a_question() -> None:
    """A question without a conversation begins one; its turn is told piece by piece, and kept."""
    async with ConversationWorld() as world, talking(world) as talk:
        assert talk.socket.subprotocol == PROTOCOL
        assert talk.ready["protocol"] == PROTOCOL and talk.ready["turns_max"] == TURNS_MAX
        await talk.ask("q-1", "What is a breaker?")
        accepted, begin, *deltas, end = await talk.until("end")
        assert text_of([begin, *deltas, end]) == "hello big world"
        assert (accepted["id"], accepted["kept"], accepted["remaining"]) == ("q-1", True, 19)
        assert (end["outcome"], end["finish"], end["kept"]) == ("complete", "stop", True)
        kept = await world.read(accepted["conversation"])
        assert [turn["id"] for turn in kept["turns"]] == [accepted["turn"]]
        assert kept["title"] == "What is a breaker?"

        await talk.ask("q-2", "And a budget?", conversation=accepted["conversation"])
        await talk.until("end")
        assert len(world.prompts()[1]) == 3


async def test_a_question_sent_twice() -> None:
    """A question that is sent again, over any connection, is asked once; it opens one conversation."""
    async with ConversationWorld() as world:
        seen = []
        for _ in range(2):
            async with talking(world) as talk:
                await talk.ask("q-1")
                heard = await talk.until("end")
                assert text_of(heard) == "hello big world"
                seen.append((heard[0]["turn"], heard[0]["conversation"]))
        async with talking(world, "you") as talk:
            await talk.ask("q-1")
            other = (await talk.until("end"))[0]
        assert seen[0] == seen[1] and other["conversation"] != seen[0][1]
        assert len(world.asked["one"]) == 2


async def test_a_lost_connection() -> None:
    """A turn outlives its connection, and is read on over another one from where the first had read."""
    async with ConversationWorld(**SLOW) as world:
        async with talking(world) as talk:
            await talk.ask("q-1")
            heard = await talk.until("delta")
        turn = heard[0]["turn"]
        async with talking(world) as talk:
            await talk.say("resume", turn=turn, after=heard[-1]["seq"])
            rest = await talk.until("end")
            assert rest[0]["type"] == "begin" and rest[-1]["outcome"] == "complete"
            assert text_of(heard) + text_of(rest) == "hello big world"
        assert len(world.asked["one"]) == 1


async def test_nobody_listens() -> None:
    """A turn that nobody listens to for `linger_s` is cancelled: a lost connection does not listen."""
    async with ConversationWorld(ConversationSettings(linger_s=2.0), **SLOW) as world:
        async with talking(world) as talk:
            await talk.ask("q-1")
            await talk.until("accepted")
        await asyncio.sleep(10)
        assert world.of(TurnEnded)[-1].outcome is Outcome.CANCELLED


async def test_who_reads_on_and_leaves() -> None:
    """So is one that another connection reads on, once that is lost as well."""
    async with ConversationWorld(ConversationSettings(linger_s=1.0), **SLOW) as world:
        async with talking(world, "me") as reading:
            async with talking(world) as asking:
                await asking.ask("q-1")
                turn = (await asking.until("accepted"))[0]["turn"]
                await reading.say("resume", turn=turn)
                await asyncio.sleep(0.1)
            await asyncio.sleep(3)
            assert not world.of(TurnEnded)
        await asyncio.sleep(1.5)
        assert world.of(TurnEnded)[-1].outcome is Outcome.CANCELLED


async def test_a_client_that_leaves_before_its_turn_is_open() -> None:
    """A turn whose client has left before the question was written is cancelled, too."""
    async with ConversationWorld(ConversationSettings(linger_s=1.0), **SLOW) as world:
        conversation = await world.begin()
        world.database.storage.faults = (DatabaseFault(kind="slow", wait_s=0.3),)
        async with talking(world) as talk:
            await talk.ask("q-1", conversation=conversation)
            await asyncio.sleep(0.02)  # the database is waited for longer
        await asyncio.sleep(4)
        assert world.of(TurnEnded)[-1].outcome is Outcome.CANCELLED


async def test_a_client_that_asks_and_leaves_at_once() -> None:
    """A question whose client leaves with it was heard or not: no more comes of it than a turn."""
    async with ConversationWorld() as world:
        async with talking(world) as talk:
            await talk.ask("q-1")
            await talk.ask("q-2")
            await talk.socket.close(1001)
        await asyncio.sleep(100)
        assert world.of(SocketClosed)[-1].code == 1001
        assert {event.outcome for event in world.of(TurnEnded)} <= {Outcome.COMPLETE}
        assert not world.of(Crashed)


async def test_stop() -> None:
    """A turn that is stopped ends as cancelled; all who listen are told."""
    async with ConversationWorld(**SLOW) as world, talking(world) as asking, talking(world) as reading:
        await asking.ask("q-1")
        turn = (await asking.until("accepted"))[0]["turn"]
        await reading.say("resume", turn=turn)
        await asyncio.sleep(1)
        await reading.say("stop", turn=turn)
        for talk in (asking, reading):
            end = (await talk.until("end"))[-1]
            assert (end["outcome"], now()) == ("cancelled", pytest.approx(1, abs=0.2))


async def test_read_twice_over_one_connection() -> None:
    """A turn that is read on where it is read already is told once: from the new position."""
    async with ConversationWorld(**SLOW) as world, talking(world) as talk:
        await talk.ask("q-1")
        turn = (await talk.until("delta"))[0]["turn"]
        await talk.say("resume", turn=turn)
        heard = await talk.until("end")
        assert text_of(heard) == "hello big world"
        assert [one["type"] for one in heard].count("begin") == 1
        await talk.ask("q-2")
        turn = (await talk.until("accepted"))[0]["turn"]
        for _ in range(2 * TURNS_MAX):  # one at a time is open
            await talk.say("resume", turn=turn)
            await asyncio.sleep(0.1)
        assert text_of(await talk.until("end", "error")) == "hello big world"
        await talk.say("ping")
        assert (await talk.hear())["type"] == "pong"


async def test_open_turns() -> None:
    """A connection has TURNS_MAX open turns; one more is refused, and no other is disturbed."""
    async with ConversationWorld(**SLOW) as world, talking(world) as talk:
        for number in range(TURNS_MAX + 1):
            await talk.ask(f"q-{number}")
        heard = []
        while sum(one["type"] == "end" for one in heard) < TURNS_MAX:
            heard.append(await talk.hear())
        (refused,) = [one for one in heard if one["type"] == "error"]
        assert (code_of(refused), refused["id"]) == ("too_many_turns", f"q-{TURNS_MAX}")
        assert "turn" not in refused
        await talk.ask("late")
        assert (await talk.until("end"))[-1]["outcome"] == "complete"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"text": " "}, "invalid_request"),
        ({"text": "x" * 2001}, "question_too_long"),
        ({"text": "x", "model": "none"}, "model_not_found"),
        ({"text": "x", "conversation": "none"}, "conversation_not_found"),
        ({"text": "x", "conversation": "0" * 26}, "conversation_not_found"),
        ({"text": "x", "deadline_ms": 10}, "deadline_exceeded"),
    ],
)
async def test_questions_that_are_refused(fields: dict[str, Any], code: str) -> None:
    """A question that is refused is told by its id; none begins a conversation, but one that was too slow."""
    async with ConversationWorld(**SLOW) as world, talking(world) as talk:
        await talk.say("ask", id="q-1", **fields)
        error = (await talk.until("error"))[-1]
        assert code_of(error) == code
        if code != "deadline_exceeded":
            assert error["id"] == "q-1" and "turn" not in error
            assert (await world.send("GET")).json()["data"] == []
        await talk.say("ping")
        assert (await talk.hear())["type"] == "pong"


BAD = [
    "",
    "x",
    "[]",
    "{}",
    '"ask"',
    '{"type": 1}',
    '{"type": "other"}',
    '{"type": "ask"}',
    '{"type": "ask", "id": "a b", "text": "x"}',
    '{"type": "ask", "id": "a", "text": 5}',
    '{"type": "ask", "id": "a", "text": "x", "extra": 1}',
    '{"type": "ask", "id": "a", "text": "x", "deadline_ms": 0}',
    '{"type": "resume", "turn": "x", "after": -1}',
    '{"type": "ping", "x": ' + "[" * 30_000 + "]" * 30_000 + "}",
    '{"x": ' + "[" * 30_000 + "]" * 30_000 + ', "type": "ping"}',
]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
async def test_bad_messages(text: str) -> None:
    """Ten bad messages in a row are answered by errors, and an eleventh by the close; a good one between them
    begins the row anew."""
    async with ConversationWorld() as world, talking(world) as talk:
        await talk.socket.send(text)
        assert code_of(await talk.hear()) == "invalid_request"
        await talk.say("ping")
        assert (await talk.hear())["type"] == "pong"
        for _ in range(BAD_MESSAGES_MAX + 1):
            await talk.socket.send(text)
            assert code_of(await talk.hear()) == "invalid_request"
        assert await talk.hear() == 1008
    assert not world.of(Crashed)


async def test_binary_and_large_messages() -> None:
    """A binary message ends the connection, and so does one of more than 64 KiB, in bytes."""
    async with ConversationWorld() as world:
        async with talking(world) as talk:
            await talk.socket.send_bytes(b"{}")
            assert [code_of(await talk.hear()), await talk.hear()] == ["invalid_request", 1003]
        async with talking(world) as talk:
            await talk.ask("q-1", "\u00e9" * 6_000 + "x" * 30_000)  # escaped: 66,000 characters
            assert [code_of(await talk.hear()), await talk.hear()] == ["request_too_large", 1009]
        async with talking(world) as talk:
            await talk.socket.send('"' + "\u00e9" * 33_000 + '"')
            assert [code_of(await talk.hear()), await talk.hear()] == ["request_too_large", 1009]


async def test_turns_of_others() -> None:
    """A turn of somebody else does not exist: it is neither read nor stopped."""
    async with ConversationWorld(**SLOW) as world, talking(world) as mine, talking(world, "you") as yours:
        await mine.ask("q-1")
        accepted = (await mine.until("accepted"))[0]
        await yours.say("resume", turn=accepted["turn"])
        assert code_of(await yours.hear()) == "conversation_not_found"
        await yours.say("stop", turn=accepted["turn"])
        assert code_of(await yours.hear()) == "conversation_not_found"
        await yours.ask("q-1", conversation=accepted["conversation"])
        assert code_of(await yours.hear()) == "conversation_not_found"
        assert (await mine.until("end"))[-1]["outcome"] == "complete"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({**PAGE, **OWN}, 101),
        (OWN, 101),
        ({"sec-fetch-site": "cross-site", "origin": "https://listed.example"}, 101),
        ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
@pytest.mark.parametrize("origins", [(), ("https://listed.example",)])
async def test_origins(headers: dict[str, str], status: int, origins: tuple[str, ...]) -> None:
    """Pages of our host and of listed origins connect with their cookie; any other is refused before it is
    let in, with an edge and without one, and noted."""
    if not origins and "listed" in headers["origin"]:
        status = 403
    async with ConversationWorld(server=ServerSettings(origins=origins)) as world:
        sent = headers | {"cookie": world.cookies["me"]}
        async with world.client.socket(PATH, headers=sent, subprotocols=[PROTOCOL]) as socket:
            assert socket.status == status
            if status == 101:
                talk = Talk(socket)
                assert (await talk.hear())["type"] == "ready"
            else:
                assert b'"origin_not_allowed"' in socket.body
                assert socket.headers["content-type"] == "application/json"
        noted = [event.what for event in world.of(SecurityNoted)]
        assert noted == ([SecurityKind.ORIGIN_REFUSED] if status == 403 else [])
        assert len(world.of(SocketOpened)) == (status == 101)


async def test_the_edge() -> None:
    """Hosts and https hold for WebSockets, too; behind a trusted proxy they have the cookie of https."""
    server = ServerSettings(
        allowed_hosts=("chat.example.com",), https="redirect", trusted_proxies=("127.0.0.1/32",)
    )
    ours = PAGE | {"host": "chat.example.com", "x-forwarded-proto": "https", "authorization": "Bearer k"}
    async with ConversationWorld(server=server, caller_keys=("k",)) as world:
        begun = await world.client.request("POST", "/v1/session", headers=ours)
        cookie = {"cookie": begun.headers["set-cookie"].partition(";")[0]}
        assert cookie["cookie"].startswith("__Host-")
        for headers, status in (
            (ours | cookie, 101),
            (ours | cookie | {"host": "other.example.com"}, 400),
            (ours | cookie | {"x-forwarded-proto": "http"}, 403),
            (ours | cookie | {"origin": "https://evil.example"}, 403),
        ):
            async with world.client.socket(PATH, headers=headers, subprotocols=[PROTOCOL]) as socket:
                assert socket.status == status
                if status == 101:
                    assert (await Talk(socket).hear())["session"] == begun.json()["session"]
                else:
                    assert socket.headers["x-content-type-options"] == "nosniff"
                    assert json.loads(socket.body)["error"]["message"]
        async with world.client.socket(PATH, headers=ours, subprotocols=["other"]) as socket:
            assert (socket.status, socket.headers["x-content-type-options"]) == (400, "nosniff")


async def test_a_server_that_cannot_refuse() -> None:
    """Where a server cannot send an error before it accepts, the connection is refused all the same."""
    async with ConversationWorld() as world:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await world.service.asgi({**scope, "extensions": {}}, receive, send)

        client = AppClient(app, lifespan=False)
        async with client.socket(PATH, headers={"origin": "https://evil.example"}) as socket:
            assert (socket.status, socket.body) == (403, b"")


async def test_previews() -> None:
    """A page of a preview connects with a ticket, and never with the cookie."""
    server = ServerSettings(origins=("vercel:shop/team",))
    page = {"sec-fetch-site": "cross-site", "origin": "https://shop-git-one-team.vercel.app"}
    async with ConversationWorld(server=server) as world:
        cookie = page | {"cookie": world.cookies["me"]}
        async with world.client.socket(PATH, headers=cookie, subprotocols=[PROTOCOL]) as socket:
            talk = Talk(socket)
            assert [code_of(await talk.hear()), await talk.hear()] == ["csrf_refused", 4401]
        ticket = await ticket_of(world, **page)
        offered = [PROTOCOL, f"ticket.{ticket}"]
        async with world.client.socket(PATH, headers=page, subprotocols=offered) as socket:
            talk = Talk(socket)
            assert (await talk.hear())["type"] == "ready"
            assert socket.subprotocol == PROTOCOL
            await talk.ask("q-1")
            assert (await talk.until("end"))[-1]["outcome"] == "complete"


@pytest.mark.parametrize(
    ("method", "path", "subprotocols", "status"),
    [
        ("GET", PATH, None, 426),
        ("HEAD", PATH, None, 426),
        ("", PATH, ["other"], 400),
        ("", "/other", [], 404),
    ],
)
async def test_what_is_no_handshake(
    method: str, path: str, subprotocols: list[str] | None, status: int
) -> None:
    """A plain request is told to upgrade; a wrong subprotocol or path is refused before it is let in."""
    async with ConversationWorld() as world:
        if subprotocols is None:
            reply = await world.client.request(method, path)
            assert (reply.status, reply.headers["upgrade"]) == (status, "websocket")
            assert reply.headers["sec-websocket-version"] == "13"
            return
        async with world.client.socket(path, headers=world.signed("me"), subprotocols=subprotocols) as socket:
            assert socket.status == status and b'"error"' in socket.body


async def test_without_conversations() -> None:
    """Where a reload has turned conversations off, the path is as any unknown one."""
    async with ConversationWorld() as world:
        settings = replace(world.service.settings, conversation=None)
        world.service.reload(replace(world.loaded, settings=settings))
        assert (await world.client.request("GET", PATH)).status == 404
        async with world.client.socket(PATH, headers=world.signed("me")) as socket:
            assert socket.status == 404


async def test_nobody() -> None:
    """Who has neither session nor key is told so after the connection was accepted."""
    async with ConversationWorld() as world, world.client.socket(PATH, headers=OWN) as socket:
        talk = Talk(socket)
        assert [code_of(await talk.hear()), await talk.hear()] == ["session_required", 4401]
        assert not world.of(SocketOpened)


async def test_keys() -> None:
    """A program connects with its key, a page with a ticket of it; a revoked key neither asks nor stops."""
    key = {"authorization": "Bearer key-1"}
    async with ConversationWorld(caller_keys=("key-1",)) as world:
        ticket = await ticket_of(world, **key)
        wrong = ({"authorization": "Bearer other"}, {"authorization": "Ticket other"}, {})
        for headers in wrong:
            async with world.client.socket(PATH, headers=headers) as socket:
                talk = Talk(socket)
                assert [code_of(await talk.hear()), await talk.hear()] == ["invalid_api_key", 4401]
        noted = [event.what for event in world.of(SecurityNoted)]
        assert noted == [SecurityKind.BAD_KEY, SecurityKind.BAD_TICKET]
        async with (
            world.client.socket(PATH, headers=key) as program,
            world.client.socket(PATH, headers=OWN, subprotocols=[PROTOCOL, f"ticket.{ticket}"]) as page,
        ):
            talks = [Talk(program), Talk(page)]
            for talk in talks:
                assert (await talk.hear())["type"] == "ready"
                await talk.ask("q-1")
                assert (await talk.until("end"))[-1]["outcome"] == "complete"
            assert len(world.asked["one"]) == 1  # both belong to the same caller
            await asyncio.sleep(IDLE_S - 10)  # a ticket that is too old by now has done its part
            world.service.reload(replace(world.loaded, caller_keys=(Secret("key-2"),)))
            for talk, say in zip(talks, ("ask", "stop"), strict=True):
                await talk.say(say, **({"id": "q-2", "text": "Hi"} if say == "ask" else {"turn": "0" * 26}))
                assert [code_of(await talk.hear()), await talk.hear()] == ["invalid_api_key", 4401]


async def test_rate_limits() -> None:
    """A question over the limit is an error with its id, and the connection stays."""
    limits = {"limits": LimitsOptions(session=LimitOptions(count=2))}
    async with ConversationWorld(options=limits) as world, talking(world) as talk:
        left = []
        for number in range(2):
            await talk.ask(f"q-{number}")
            left.append((await talk.until("end"))[0]["remaining"])
        await talk.ask("q-2")
        error = await talk.hear()
        assert (left, code_of(error), error["id"]) == ([1, 0], "rate_limited", "q-2")
        assert len(world.asked["one"]) == 2
        assert world.of(RequestEnded)[-1].code == "rate_limited"
        await talk.say("ping")
        assert (await talk.hear())["type"] == "pong"


async def test_idle() -> None:
    """A connection without a message and without an open turn is closed, with a word, after IDLE_S."""
    async with ConversationWorld(one=healthy(first_s=5.0)) as world, talking(world) as talk:
        await asyncio.sleep(IDLE_S - 1)
        await talk.ask("q-1")
        await talk.until("end")
        ended_s = now()
        bye = await talk.hear()
        assert (bye["type"], bye["why"], now() - ended_s) == ("bye", "idle", pytest.approx(IDLE_S))
        assert await talk.hear() == 4408
    assert world.of(SocketClosed)[-1].code == 4408


async def test_a_long_turn_is_not_idle() -> None:
    """A turn that takes longer than IDLE_S is told to its end; from then on the connection is idle."""
    slow = healthy(first_s=0.1, gap_s=250.0, words=tuple("abcd"))
    timeouts = TimeoutOptions(between_tokens_s=300.0, total_s=3000.0)
    async with ConversationWorld(one=slow, timeouts=timeouts) as world, talking(world) as talk:
        await talk.ask("q-1")
        assert (await talk.until("end", "error"))[-1]["type"] == "end"
        ended_s = now()
        assert ended_s > IDLE_S
        assert [(await talk.hear())["type"], await talk.hear()] == ["bye", 4408]
        assert now() - ended_s == pytest.approx(IDLE_S, abs=1)


async def test_a_client_that_does_not_read() -> None:
    """A client that does not read is left after `client_stall_s`; its turn ends as ever, and is kept."""
    long = healthy(first_s=0.1, gap_s=0.0, words=("x" * 60_000,) * 4)
    async with ConversationWorld(one=long, server=ServerSettings(client_stall_s=3.0)) as world:
        client = AppClient(world.service.asgi, lifespan=False, buffer_bytes_max=1000)
        async with client.socket(PATH, headers=world.signed("me")) as socket:
            talk = Talk(socket)
            await talk.hear()
            await talk.ask("q-1")
            await asyncio.sleep(10)
            closed = world.of(SocketClosed)[-1]
            assert (closed.code, closed.open_s) == (1006, pytest.approx(3.1, abs=0.2))
        assert world.of(TurnEnded)[-1].outcome is Outcome.COMPLETE


async def test_a_slow_client_has_no_queue() -> None:
    """What was said while a client did not read comes as one message."""
    many = healthy(first_s=0.1, gap_s=0.01, words=("x" * 400,) * 50)
    async with ConversationWorld(one=many) as world:
        client = AppClient(world.service.asgi, lifespan=False, buffer_bytes_max=1000)
        async with client.socket(PATH, headers=world.signed("me")) as socket:
            talk = Talk(socket)
            await talk.hear()
            await talk.ask("q-1")
            await asyncio.sleep(5)
            heard = await talk.until("end")
        assert text_of(heard) == "x" * 20_000
        assert sum(one["type"] == "delta" for one in heard) < 8


async def test_drain() -> None:
    """A drain closes idle connections at once, and others when their turns are over; new questions and new
    connections are refused."""
    async with ConversationWorld(**SLOW) as world:
        async with talking(world) as idle, talking(world) as busy:
            await busy.ask("q-1")
            await busy.until("accepted")
            draining = asyncio.create_task(world.service.drain())
            bye = await idle.hear()
            assert (bye["type"], bye["why"]) == ("bye", "drain") and bye["retry_after_s"] > 0
            assert await idle.hear() == 1012
            assert now() < 0.1
            assert (await busy.hear())["type"] == "bye"
            await busy.ask("q-2")
            assert code_of(await busy.hear()) == "shutting_down"
            await busy.say("resume", turn="0" * 26)
            assert code_of(await busy.hear()) == "shutting_down"
            async with world.client.socket(PATH, headers=world.signed("me")) as socket:
                late = Talk(socket)
                assert [code_of(await late.hear()), await late.hear()] == ["shutting_down", 1012]
            assert (await busy.until("end"))[-1]["outcome"] == "complete"
            ended_s = now()
            assert await busy.hear() == 1012
            await draining
            assert now() - ended_s < 0.5
        assert [event.code for event in world.of(SocketClosed)] == [1012] * 3


async def test_a_drain_of_fifty() -> None:
    """Each of fifty connections is told to go, and closed once its turn is whole, however far that was."""

    async def person(world: ConversationWorld, number: int) -> tuple[int, str]:
        async with talking(world, ("me", "you")[number % 2]) as talk:
            if number % 3:
                await asyncio.sleep(4 - number * 0.08)
                await talk.ask(f"q-{number}")
            heard = await talk.until()
            assert "bye" in [message["type"] for message in heard[:-1]]
            return heard[-1], text_of(heard[:-1])

    async with ConversationWorld(**SLOW) as world:
        people = [asyncio.create_task(person(world, number)) for number in range(50)]
        await asyncio.sleep(4)
        await world.service.drain()
        ends = [await one for one in people]
        assert ends == [(1012, "hello big world" if number % 3 else "") for number in range(50)]
        assert world.service.sockets.count == world.service.admission.in_flight == 0


async def test_a_drain_that_cuts() -> None:
    """A turn that is not over when the drain's time is up ends with an error, and then its connection."""
    endless = healthy(first_s=0.1, gap_s=10.0)
    server = ServerSettings(drain_s=2.0)
    async with ConversationWorld(one=endless, server=server) as world, talking(world) as talk:
        await talk.ask("q-1")
        await talk.until("delta")
        await world.service.drain()
        heard = await talk.until("error")
        assert code_of(heard[-1]) == "shutting_down" and heard[-1]["turn"]
        assert await talk.hear() == 1012


async def test_too_many_connections() -> None:
    """A process has `sockets_max` connections: one more is told to come back, closed, and counted."""
    async with ConversationWorld(ConversationSettings(sockets_max=1)) as world, talking(world) as first:
        async with world.client.socket(PATH, headers=world.signed("you")) as socket:
            second = Talk(socket)
            error = await second.hear()
            assert (code_of(error), await second.hear()) == ("overloaded", 1013)
            assert error["error"]["retry_after"] > 0
        assert [event.code for event in world.of(SocketClosed)] == [1013]
        assert first.ready["type"] == "ready"
        assert "gateway_sockets 1.0" in world.service.metrics.scrape().decode()


@pytest.mark.parametrize("where", ["read_message", "messages_of"])
async def test_a_defect(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of ours is an honest error and noted as a crash: the end of a turn, or of the connection."""

    def fails(*arguments: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(socket_module, where, fails)
    async with ConversationWorld() as world, talking(world) as talk:
        await talk.ask("q-1")
        assert code_of(await talk.hear()) == "internal_error"
        if where == "read_message":
            assert await talk.hear() == 1011
        assert len(world.of(Crashed)) == 1
