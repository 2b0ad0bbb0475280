"""Turns that are read on: after a lost connection, from any position, from memory, database and elsewhere."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dub5.service.api.turns import TurnExchange
from dub5.service.config.settings import ConversationSettings
from dub5.service.conversation.live_turn import LISTENERS_MAX
from dub5.service.conversation.live_turns import REMEMBER_S
from dub5.service.events import RequestEnded, TurnEnded, TurnResumed
from dub5.simulators.virtual import AppResponse
from dub5.simulators.virtual.database import DatabaseFault, VirtualDatabase
from tests.support.conversation_world import ConversationWorld, messages
from tests.support.world import healthy

WORDS = ("größer ", "ist ", "die Welt ", "🌍 ", "heute")
TEXT = "".join(WORDS)
SLOW = {"one": healthy(gap_s=1.0, words=WORDS)}
LOST = (DatabaseFault(kind="lost"),)


async def events(world: ConversationWorld, turn: str, after: int = 0, who: str = "me") -> AppResponse:
    """Return the messages of a turn from a position on."""
    headers = world.signed(who, {"last-event-id": str(after)} if after else {})
    return await world.client.request("GET", f"/v1/turns/{turn}/events", headers=headers)


def follows(data: bytes, after: int) -> str:
    """Return the text of a stream that begins at a position, each message of which has the next number."""
    position, text = after, ""
    for message in messages(data):
        if "seq" in message:
            position += len(message.get("text", "").encode())
            text += message.get("text", "")
            assert message["seq"] == position, message
    return text


@asynccontextmanager
async def left(world: ConversationWorld, at_s: float) -> AsyncIterator[tuple[str, str, int, str]]:
    """Yield a conversation, its turn, the position and the text read, once a client has left at this time."""
    id_, data = await world.begin(), b""
    async with world.asking(id_, "Hi", id="q") as reply:
        try:
            async with asyncio.timeout(at_s):
                while piece := await reply.read():
                    data += piece
        except TimeoutError:
            pass
    found = messages(data)
    yield id_, found[0]["turn"], found[-1].get("seq", 0), follows(data, 0)


@pytest.mark.parametrize("away_s", [0.0, 1.5, 14.9, REMEMBER_S - 1, REMEMBER_S + 30])
@pytest.mark.parametrize("at_s", [0.5, 2.5, 4.5])
async def test_read_on(at_s: float, away_s: float) -> None:
    """A client that comes back reads on where it was, live, or from memory, or from the database."""
    async with ConversationWorld(**SLOW) as world, left(world, at_s) as (_, turn, after, text):
        await asyncio.sleep(away_s)
        reply = await events(world, turn, after)
        *_, end = messages(reply.body)
        assert text + follows(reply.body, after) == TEXT
        assert (end["outcome"], end["kept"], end["seq"]) == ("complete", True, len(TEXT.encode()))
        assert len(world.asked["one"]) == 1
        source = "memory" if away_s < REMEMBER_S else "database"
        assert [event.source for event in world.of(TurnResumed)] == [source]


async def test_a_silent_answer() -> None:
    """Who reads a turn on gets a comment each ten seconds in which nothing is said, also in mid-answer."""
    slow = healthy(first_s=12.0, gap_s=12.0, words=WORDS[:2])
    async with ConversationWorld(one=slow) as world:
        asking = asyncio.create_task(world.ask_in(await world.begin(), "Hi", stream=True))
        await asyncio.sleep(0.5)
        ((turn,),) = world.database.storage.rows("SELECT id FROM turn")
        reply = await events(world, turn)
        assert follows(reply.body, 0) == "".join(WORDS[:2])
        before, after = reply.body.split(b"event: begin")
        assert (before.count(b": the answer"), after.count(b": the answer")) == (1, 2)
        await asking


async def test_any_position() -> None:
    """A turn is read from each position between two characters; inside of one there is no message."""
    async with ConversationWorld(**SLOW) as world, left(world, 9.0) as (_, turn, *_):
        for wait_s in (0.0, REMEMBER_S + 10):
            await asyncio.sleep(wait_s)
            for after in range(1, len(TEXT.encode())):
                reply = await events(world, turn, after)
                try:
                    rest = TEXT.encode()[after:].decode()
                except UnicodeDecodeError:
                    assert (reply.status, reply.json()["error"]["param"]) == (400, "after")
                else:
                    assert follows(reply.body, after) == rest
                    assert messages(reply.body)[0]["type"] == "begin"


@pytest.mark.parametrize("after", ["9999", "-1", "1.5", "x", "99999999999", "٣"])
async def test_a_position_that_never_was(after: str) -> None:
    """A number that no message of an open turn had is refused in words."""
    async with ConversationWorld(**SLOW) as world, left(world, 0.5) as (_, turn, *_):
        path = f"/v1/turns/{turn}/events?after={after.encode().hex() if after == '٣' else after}"
        reply = await world.client.request("GET", path, headers=world.signed("me"))
        assert (reply.status, reply.json()["error"]["code"]) == (400, "invalid_request")
        assert reply.json()["error"]["message"].startswith("after: ")


async def test_no_stream_without_a_body() -> None:
    """HEAD for the messages of a turn, which would wait for its end and send nothing, is refused."""
    async with ConversationWorld(**SLOW) as world, left(world, 0.5) as (_, turn, *_):
        reply = await world.client.request("HEAD", f"/v1/turns/{turn}/events", headers=world.signed("me"))
        assert reply.status == 405


async def test_somebody_else() -> None:
    """Nobody reads or stops the turn of another one, open or ended; its existence is not told."""
    async with ConversationWorld(**SLOW) as world, left(world, 0.5) as (_, turn, *_):
        for wait_s in (0.0, 10.0, REMEMBER_S):
            await asyncio.sleep(wait_s)
            for who, status in (("you", 404), ("nobody", 401)):
                for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/stop")):
                    headers = world.signed(who, {"content-type": "application/json"})
                    reply = await world.client.request(method, f"/v1/turns/{turn}{path}", headers=headers)
                    assert reply.status == status, (who, method, path, reply.body)
        assert world.of(TurnEnded)[-1].outcome == "complete"


async def test_asked_again_meanwhile() -> None:
    """A question that is sent again while it is answered is read live, from where its client was."""
    async with ConversationWorld(**SLOW) as world, left(world, 2.5) as (id_, turn, after, text):
        reply = await world.ask_in(id_, "Hi", id="q", stream=True, headers={"last-event-id": str(after)})
        assert text + follows(reply.body, after) == TEXT
        assert messages(reply.body)[0]["turn"] == turn
        assert len([one for one in messages(reply.body) if one["type"] == "delta"]) > 1
        assert len(world.asked["one"]) == 1


async def test_two_listeners() -> None:
    """Two connections read one turn, each from where it was."""
    async with ConversationWorld(**SLOW) as world, left(world, 0.5) as (_, turn, after, text):
        replies = await asyncio.gather(*(events(world, turn, one) for one in (0, after, 0)))
        assert [follows(r.body, one) for r, one in zip(replies, (0, after, 0), strict=True)] == [
            TEXT,
            TEXT.removeprefix(text),
            TEXT,
        ]


async def test_too_many_listeners() -> None:
    """A turn has a bounded number of listeners; one more is refused, and none of them loses anything."""
    async with ConversationWorld(**SLOW) as world, left(world, 0.5) as (_, turn, *_):
        many = await asyncio.gather(*(events(world, turn) for _ in range(LISTENERS_MAX + 1)))
        refused = [one for one in many if one.status != 200 or b"overloaded" in one.body]
        assert len(refused) == 1 and len({one.body for one in many}) == 2


async def test_stopped() -> None:
    """Who stops a turn ends it for all who listen, as cancelled; to stop it twice does no harm."""
    async with ConversationWorld(**SLOW) as world, left(world, 1.5) as (_, turn, _, _):
        stop = ("POST", f"/v1/turns/{turn}/stop")
        headers = world.signed("me", {"content-type": "application/json"})
        reading = asyncio.create_task(events(world, turn))
        await asyncio.sleep(1.0)
        assert (await world.client.request(*stop, headers=headers)).status == 204
        end = messages((await reading).body)[-1]
        assert (end["type"], end["outcome"], end["kept"]) == ("end", "cancelled", True)
        assert (await world.client.request(*stop, headers=headers)).status == 204
        assert [event.outcome for event in world.of(RequestEnded)] == ["cancelled"]


async def test_remembered_without_a_database() -> None:
    """While the database is lost, a question that has ended is not asked again, however long that takes."""
    async with ConversationWorld(one=healthy(words=WORDS)) as world:
        id_ = await world.begin()
        world.database.storage.faults = LOST
        first = await world.turn(id_, "Hi", id="q")
        await asyncio.sleep(REMEMBER_S * 3.5)
        again = await world.turn(id_, "Hi", id="q")
        assert (again["id"], again["answer"]["text"]) == (first["id"], TEXT)
        assert len(world.asked["one"]) == 1
        world.database.storage.faults = ()
        await asyncio.sleep(REMEMBER_S * 2)
        assert (await world.read(id_))["turns"][0]["answer"]["text"] == TEXT


class TwoProcesses:
    """Two services over one database."""

    def __init__(self, **more: Any) -> None:
        self.a = ConversationWorld(**SLOW, **more)
        storage = self.a.database.storage
        self.b = ConversationWorld(
            database=VirtualDatabase(storage, random.Random(2)), seed="b", **SLOW, **more
        )

    async def __aenter__(self) -> tuple[ConversationWorld, ConversationWorld]:
        await self.a.__aenter__()
        await self.b.__aenter__()
        self.b.cookies = self.a.cookies
        return self.a, self.b

    async def __aexit__(self, *error: object) -> None:
        await self.b.__aexit__(None, None, None)
        await self.a.__aexit__(None, None, None)


async def test_answered_elsewhere() -> None:
    """A turn that another process answers is waited for there, and goes on although nobody listens here."""
    linger = ConversationSettings(linger_s=1.5)
    async with TwoProcesses(conversation=linger) as (a, b), left(a, 1.5) as (id_, turn, after, text):
        reply = await events(b, turn, after)
        assert text + follows(reply.body, after) == TEXT
        assert [event.source for event in b.of(TurnResumed)] == ["other_process"]
        again = await b.turn(id_, "Hi", id="q")
        assert (again["id"], again["outcome"]) == (turn, "complete")
        assert len(a.asked["one"]) + len(b.asked["one"]) == 1


async def test_too_many_wait_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of other processes are waited for by a bounded number of connections; one more is refused."""
    monkeypatch.setattr("dub5.service.conversation.turns.WAITING_ELSEWHERE_MAX", 2)
    async with TwoProcesses() as (a, b), left(a, 1.5) as (_, turn, *_):
        many = await asyncio.gather(*(events(b, turn) for _ in range(3)))
        assert sorted(one.status for one in many) == [200, 200, 503]
        assert (await events(b, turn)).status == 200


async def test_its_process_died() -> None:
    """A turn whose process has died ends as cut, and says so; what was read before is all there is."""
    async with TwoProcesses() as (a, b), left(a, 2.5) as (_, turn, after, _):
        a.database.kill()
        reply = await events(b, turn, after)
        *_, begin, end = messages(reply.body)
        assert (begin["type"], begin["seq"], end["outcome"]) == ("begin", 0, "cut")
        view = await b.client.request("GET", f"/v1/turns/{turn}", headers=b.signed("me"))
        assert (view.json()["state"], view.json()["outcome"]) == ("ended", "cut")


async def test_only_its_words_are_remembered() -> None:
    """Of a turn that has ended its text is remembered, and nothing of the exchange that answered it."""
    async with ConversationWorld(one=healthy(words=WORDS)) as world:
        await world.turn(await world.begin(), "Hi")
        gc.collect()
        assert not [one for one in gc.get_objects() if isinstance(one, TurnExchange)]
