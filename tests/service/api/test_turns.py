"""Turns through the whole service: asked, remembered, streamed, repeated, and lost."""

import asyncio
import random

import pytest
from msgspec.structs import replace

from dub5.service.config.options import DegradedOptions
from dub5.service.config.settings import ConversationSettings, Personality
from dub5.service.errors import ConversationNotFound
from dub5.service.events import RequestEnded, TurnEnded
from dub5.service.model import Outcome
from dub5.service.store.base import BoundStatement, Row
from dub5.simulators.script import Data, Head, Wait
from dub5.simulators.virtual.database import DatabaseFault, DatabaseFaultKind, VirtualDatabase
from tests.support.conversation_world import ConversationWorld, counting, messages, said, schema
from tests.support.world import SSE, chunk, healthy, in_turn, script, status

LOST = (DatabaseFault(kind="lost"),)


async def test_a_conversation() -> None:
    """A second question is asked with the first and its answer; both are kept as they were said."""
    async with ConversationWorld() as world:
        id_ = await world.begin()
        first = await world.turn(id_, "What is a\x00 breaker?")
        second = await world.turn(id_, "And a budget?")

        assert (first["state"], first["outcome"], first["kept"]) == ("ended", "complete", True)
        assert first["question"]["text"] == "What is a breaker?"
        assert first["answer"]["text"] == "hello big world"
        assert world.prompts()[1] == [
            {"role": "user", "content": "What is a breaker?"},
            {"role": "assistant", "content": "hello big world"},
            {"role": "user", "content": "And a budget?"},
        ]
        kept = await world.read(id_)
        assert kept["turns"] == [first, second]
        assert (kept["title"], kept["model"], kept["has_more"]) == ("What is a breaker?", "chat", False)
        assert [event.kept for event in world.of(TurnEnded)] == [True, True]


async def test_a_stream() -> None:
    """A stream says that the turn is open, who answers, each piece, and the end, which is kept before."""
    async with ConversationWorld() as world:
        id_ = await world.begin()
        reply = await world.ask_in(id_, "Hi", id="mine", stream=True)
        accepted, begin, *_, end = messages(reply.body)
        assert said(reply.body) == "hello big world"
        assert reply.headers["x-dub5-protocol"] == "dub5.v1"
        assert reply.headers["content-type"].startswith("text/event-stream")
        turn = (await world.read(id_))["turns"][0]
        assert accepted == {
            "type": "accepted",
            "turn": turn["id"],
            "id": "mine",
            "conversation": id_,
            "kept": True,
            "flags": [],
        }
        assert (begin["route"], begin["target"]) == ("chat", "one/m")
        assert begin["trail"] == reply.headers["x-dub5-trail"]
        assert (end["outcome"], end["finish"], end["kept"]) == ("complete", "stop", True)
        assert end["tokens"]["answer"] == turn["answer"]["tokens"]


async def test_counts_of_the_provider() -> None:
    """The provider's counts are kept: of an answer without its reasoning, of a question as what is left."""
    async with ConversationWorld(
        one=in_turn(counting(prompt=11, answer=30, reasoning=22), counting(prompt=40, answer=5))
    ) as world:
        id_ = await world.begin()
        for stream in (True, False):
            await world.ask_in(id_, "How many words are these?", stream=stream)
        first, second = (await world.read(id_))["turns"]
        assert (first["question"]["tokens"], first["answer"]["tokens"]) == (11, 8)
        assert (second["question"]["tokens"], second["answer"]["tokens"]) == (40 - 11 - 8, 5)
        sources = {one[part]["tokens_source"] for one in (first, second) for part in ("question", "answer")}
        assert sources == {"provider"}


async def test_counts_of_another_system_prompt() -> None:
    """After a turn of another model the question is estimated: the system prompt may be another one."""
    one = in_turn(counting(prompt=11, answer=8), counting(prompt=60, answer=5))
    async with ConversationWorld(one=one) as world:
        known = {"stern": Personality("stern", "Stern", "You are stern. " * 100)}
        settings = world.loaded.settings
        settings = replace(settings, route=(replace(settings.route[0], personalities=("stern",)),))
        world.service.reload(replace(world.loaded, settings=settings, personalities=known))
        id_ = await world.begin()
        await world.turn(id_, "How many words are these?")
        second = await world.turn(id_, "And these?", model="chat:stern")
        assert second["question"]["tokens"] < 10
        assert second["question"]["tokens_source"] == "estimate"


async def test_asked_twice() -> None:
    """A question that is sent twice with its id is asked once: the second one gets the end of the first."""
    async with ConversationWorld() as world:
        id_ = await world.begin()
        both = await asyncio.gather(*(world.ask_in(id_, "Hi", id="same", stream=s) for s in (False, True)))
        later = await world.turn(id_, "Hi", id="same")
        assert len(world.asked["one"]) == 1
        assert both[0].json()["id"] == messages(both[1].body)[0]["turn"] == later["id"]
        assert said(both[1].body) == later["answer"]["text"] == "hello big world"
        assert [event.repeated for event in world.of(TurnEnded)] == [False, True, True]
        assert len((await world.read(id_))["turns"]) == 1


async def test_a_lost_database() -> None:
    """A question is answered without a database, within its patience, and says what it lacks."""
    async with ConversationWorld() as world:
        id_ = await world.begin()
        await world.turn(id_, "One")
        world.database.storage.faults = LOST
        begun = asyncio.get_running_loop().time()
        reply = await world.ask_in(id_, "Two")
        turn = reply.json()
        assert asyncio.get_running_loop().time() - begun < 0.5
        assert reply.headers["x-dub5-memory"] == "lost"
        assert (turn["kept"], turn["memory"], turn["outcome"]) == (False, "lost", "complete")
        assert len(world.prompts()[1]) == 1
        new = await world.send("POST", json={})
        assert (new.status, new.json()["kept"]) == (201, False)
        for method, path in (("GET", ""), ("GET", f"/{id_}"), ("PATCH", f"/{id_}"), ("DELETE", f"/{id_}")):
            refused = await world.send(
                method, path, **({"json": {"title": "x"}} if method == "PATCH" else {})
            )
            assert refused.status == 503, (method, path)
            assert refused.json()["error"]["code"] == "storage_unavailable"
            assert refused.json()["error"]["retry_after"]

        world.database.storage.faults = ()
        await asyncio.sleep(10)
        kept = await world.read(id_)
        assert [one["outcome"] for one in kept["turns"]] == ["complete", "complete"]
        assert (await world.read(new.json()["id"]))["turns"] == []


async def test_a_lost_database_after_a_reload() -> None:
    """A conversation is answered by its own model without a database, also after a reload of the settings."""
    async with ConversationWorld() as world:
        settings = world.loaded.settings
        routes = (*settings.route, replace(settings.route[0], name="second"))
        loaded = replace(world.loaded, settings=replace(settings, route=routes))
        world.service.reload(loaded)
        id_ = await world.begin(model="second")
        world.service.reload(loaded)
        world.database.storage.faults = LOST
        turn = await world.turn(id_, "Hi")
        assert (turn["memory"], turn["model"]) == ("lost", "second")


async def test_a_stream_that_is_cut() -> None:
    """A stream that breaks ends with the message `error`; what was said is kept as cut, and is no history."""
    broken = script(Head(200, SSE), chunk({"content": "half"}), Wait(0.1), Data(b"data: {broken\n\n"))
    async with ConversationWorld(one=in_turn(broken, healthy())) as world:
        id_ = await world.begin()
        reply = await world.ask_in(id_, "Hi", stream=True)
        *_, delta, error = messages(reply.body)
        assert (delta["text"], error["type"]) == ("half", "error")
        assert error["error"]["id"] == reply.headers["x-request-id"]
        assert error["seq"] == delta["seq"] == len("half")
        await world.turn(id_, "Again")
        cut, whole = (await world.read(id_))["turns"]
        assert (cut["outcome"], cut["answer"]["text"]) == ("cut", "half")
        assert whole["outcome"] == "complete"
        assert [message["content"] for message in world.prompts()[-1]] == ["Again"]


async def test_no_provider() -> None:
    """Before the commit point an error has its status; the turn is kept as failed."""
    async with ConversationWorld(one=status(500)) as world:
        id_ = await world.begin()
        reply = await world.ask_in(id_, "Hi", stream=True)
        assert reply.status == 503 and reply.json()["error"]["code"] == "all_targets_down"
        (turn,) = (await world.read(id_))["turns"]
        assert (turn["state"], turn["outcome"], turn["answer"]) == ("ended", "failed", None)


@pytest.mark.parametrize("linger_s", [0.0, 3.0])
async def test_a_client_that_leaves(linger_s: float) -> None:
    """A turn without a listener ends as cancelled after `linger_s`, with what was said until then."""
    said_by_then = {0.0: "hello ", 3.0: "hello big "}[linger_s]
    async with ConversationWorld(ConversationSettings(linger_s=linger_s), one=healthy(gap_s=2.0)) as world:
        id_ = await world.begin()
        async with world.asking(id_, "Hi") as reply:
            assert b"accepted" in await reply.read()
        await asyncio.sleep(max(0.0, linger_s - 0.1))
        assert bool(world.of(RequestEnded)) == (linger_s == 0)
        await asyncio.sleep(0.2)
        (turn,) = (await world.read(id_))["turns"]
        assert (turn["outcome"], turn["answer"]["text"]) == ("cancelled", said_by_then)
        assert world.of(RequestEnded)[-1].outcome is Outcome.CANCELLED


async def test_a_foreign_conversation() -> None:
    """Nobody reads, changes, or asks in a conversation of another one; its existence is not told."""
    async with ConversationWorld() as world:
        id_ = await world.begin()
        mine = await world.turn(id_, "Mine", id="a")
        before = (
            world.database.storage.rows("SELECT * FROM conversation"),
            world.database.storage.rows("SELECT * FROM turn"),
        )
        for who, expected in (("you", ConversationNotFound.status), ("nobody", 401)):
            for method, path, body in (
                ("GET", f"/{id_}", None),
                ("PATCH", f"/{id_}", {"title": "yours"}),
                ("DELETE", f"/{id_}", None),
                ("POST", f"/{id_}/turns", {"text": "Hi", "id": "a"}),
                ("POST", f"/{id_}/turns", {"text": "Hi", "stream": True}),
            ):
                reply = await world.send(method, path, who=who, json=body)
                assert reply.status == expected, (who, method, path, reply.body)
                assert mine["answer"]["text"].encode() not in reply.body
        assert (await world.send("GET", who="you")).json()["data"] == []
        await asyncio.sleep(1)
        assert before == (
            world.database.storage.rows("SELECT * FROM conversation"),
            world.database.storage.rows("SELECT * FROM turn"),
        )
        assert len(world.asked["one"]) == 1


async def first_message_s(world: ConversationWorld, id_: str) -> float:
    """Ask a question as a stream; return how long the first message took."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    path, asked = f"/v1/conversations/{id_}/turns", {"text": "Hi", "stream": True}
    async with world.client.stream("POST", path, headers=world.signed("me"), json=asked) as reply:
        assert b"accepted" in await reply.read()
        took_s = loop.time() - begun_s
        while await reply.read():
            pass
    return took_s


@pytest.mark.parametrize("kind", ["lost", "slow", "silent", "unsure", "full"])
async def test_what_a_bad_database_costs(kind: DatabaseFaultKind) -> None:
    """Whatever is wrong with the database, the first message comes at most 60 ms later."""
    async with ConversationWorld() as world:
        id_ = await world.begin()
        usual_s = await first_message_s(world, id_)
        world.database.storage.faults = (DatabaseFault(kind=kind, wait_s=5.0),)
        for _ in range(5):
            assert await first_message_s(world, id_) <= usual_s + 0.06


class SlowReads(VirtualDatabase):
    """A database whose reads take 5 s."""

    async def read(self, bound: BoundStatement) -> list[Row]:
        await asyncio.sleep(5.0)
        return await super().read(bound)


async def test_a_conversation_that_cannot_be_looked_for() -> None:
    """Where reads are slow and the question finds no conversation, the wait is still one patience."""
    async with ConversationWorld(database=SlowReads(schema(), random.Random(1))) as world:
        id_ = await world.begin()
        world.database.storage.rows("DELETE FROM conversation")
        assert await first_message_s(world, id_) <= 0.1 + 0.06  # the provider takes 0.1 s


async def test_a_deadline_while_an_end_is_written() -> None:
    """Who waits whether an answer is kept waits no longer than its request may take."""
    async with ConversationWorld() as world:
        id_ = await world.begin()
        world.database.storage.faults = (DatabaseFault(kind="slow", wait_s=5.0),)
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        turn = await world.turn(id_, "Hi", headers={"x-deadline-ms": "200"})
        assert (turn["outcome"], turn["kept"]) == ("complete", False)
        assert loop.time() - begun_s <= 0.21


async def test_an_answer_that_is_held() -> None:
    """With the delivery `whole` comments come until the answer is whole; then its messages, as ever."""
    async with ConversationWorld(one=healthy(first_s=15.0)) as world:
        id_ = await world.begin()
        reply = await world.ask_in(id_, "Hi", stream=True, headers={"x-dub5-delivery": "whole"})
        assert reply.body.startswith(b": ")
        assert said(reply.body) == "hello big world"
        assert messages(reply.body)[-1]["kept"] is True
        assert reply.headers["x-dub5-protocol"] == "dub5.v1"


async def test_an_equal_question_that_is_held() -> None:
    """With the delivery `whole`, who waits for an equal question has comments meanwhile, then its answer."""
    async with ConversationWorld(one=healthy(first_s=25.0)) as world:
        id_ = await world.begin()
        asked = {"id": "a", "stream": True, "headers": {"x-dub5-delivery": "whole"}}
        replies = await asyncio.gather(*(world.ask_in(id_, "Hi", **asked) for _ in range(2)))
        for reply in replies:
            assert reply.body.count(b": ") >= 2 and reply.body.startswith(b": ")
            assert said(reply.body) == "hello big world"
            assert reply.headers["x-dub5-protocol"] == "dub5.v1"
        assert len(world.asked["one"]) == 1


async def test_a_fallback() -> None:
    """A fallback answer is kept as degraded, says so, and is no history."""
    route = {"degraded": DegradedOptions(enabled=True)}
    async with ConversationWorld(one=in_turn(status(401), healthy()), route=route) as world:
        id_ = await world.begin()
        reply = await world.ask_in(id_, "Hi", stream=True)
        begin, end = messages(reply.body)[1], messages(reply.body)[-1]
        assert (begin["degraded"], end["outcome"]) == ("words", "degraded")
        (turn,) = (await world.read(id_))["turns"]
        assert (turn["outcome"], turn["degraded"], turn["kept"]) == ("degraded", "words", True)
        assert turn["answer"]["text"] == said(reply.body) != ""


async def test_turns_at_once() -> None:
    """Many turns of one conversation at once are each answered and kept, in the order of their ids."""
    async with ConversationWorld() as world:
        id_ = await world.begin()
        turns = await asyncio.gather(*(world.turn(id_, f"Question {n}") for n in range(20)))
        kept = (await world.read(id_))["turns"]
        assert [one["id"] for one in kept] == sorted(one["id"] for one in turns)
        assert all(one["kept"] and one["outcome"] == "complete" for one in turns)
