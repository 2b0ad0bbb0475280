"""The routes of conversations: begun, listed, read, renamed, deleted, and whose they are."""

import asyncio

import pytest
from msgspec.structs import replace

from dub5.service.config.settings import ConversationSettings, ProviderSettings, ServerSettings
from dub5.service.conversation.statements import HISTORY
from dub5.service.events import HistoryPruned, TurnEnded
from dub5.simulators.virtual import AppClient
from tests.support.conversation_world import PAGE, PATH, ConversationWorld, counting, messages, said
from tests.support.world import ServiceWorld, healthy

COPY = (
    "INSERT INTO turn SELECT $1, conversation, $1, question, question_tokens, question_source, flags, state,"
    " model, request_id, worker, asked_at, answer, answer_tokens, answer_source, prompt_tokens, outcome,"
    " finish, target, degraded, ended_at, NULL, NULL FROM turn WHERE id = $2"
)


async def test_without_conversations() -> None:
    """Without [conversation] in the settings the routes do not exist, and the list of models has no word."""
    async with ServiceWorld(one=healthy()) as world:
        for method, path in (
            ("POST", PATH),
            ("GET", PATH),
            ("GET", f"{PATH}/01ARZ3NDEKTSV4RRFFQ69G5FAV"),
            ("POST", f"{PATH}/01ARZ3NDEKTSV4RRFFQ69G5FAV/turns"),
        ):
            reply = await world.client.request(
                method, path, json={"text": "Hi"} if method == "POST" else None
            )
            assert (reply.status, reply.json()["error"]["code"]) == (404, "not_found")
        assert "conversations" not in (await world.client.request("GET", "/v1/models")).json()


async def test_a_life() -> None:
    """A conversation is begun, listed, renamed, given another model, and deleted with its turns."""
    async with ConversationWorld() as world:
        assert (await world.client.request("GET", "/v1/models")).json()["conversations"] is True
        made = await world.send("POST", json={"title": "  On\n breakers "})
        one = made.json()
        assert (one["title"], one["model"], one["kept"]) == ("On breakers", "chat", True)
        assert one["created_at"] == one["used_at"]
        assert made.headers["cache-control"] == "no-store"
        assert (await world.read(one["id"])) == {**one, "turns": [], "has_more": False}

        renamed = await world.send("PATCH", f"/{one['id']}", json={"title": "Other"})
        assert renamed.json() == {**one, "title": "Other"}
        assert (await world.send("PATCH", f"/{one['id']}", json={})).json()["title"] == "Other"
        await world.turn(one["id"], "What is a breaker?")
        assert (await world.read(one["id"]))["title"] == "Other"

        gone = await world.send("DELETE", f"/{one['id']}")
        assert (gone.status, gone.body) == (204, b"")
        for method in ("GET", "DELETE"):
            reply = await world.send(method, f"/{one['id']}")
            assert (reply.status, reply.json()["error"]["code"]) == (404, "conversation_not_found")
        assert world.database.storage.rows("SELECT * FROM turn") == []


async def test_pages() -> None:
    """Conversations and turns are read in pages, with nothing twice and nothing left out."""
    async with ConversationWorld() as world:
        made = []
        for _ in range(5):
            made.append(await world.begin())
            await asyncio.sleep(1)
        asked = [(await world.turn(made[0], f"Question {n}"))["id"] for n in range(5)]
        listed, before = [], ""
        while True:
            page = (await world.send("GET", f"?limit=2{before}")).json()
            listed += [one["id"] for one in page["data"]]
            if not page["has_more"]:
                break
            before = f"&before={listed[-1]}"
        assert listed == [made[0], *made[:0:-1]]
        newest = await world.read(made[0], query="?limit=2")
        older = await world.read(made[0], query=f"?limit=10&before={newest['turns'][0]['id']}")
        assert [one["id"] for one in (*older["turns"], *newest["turns"])] == asked
        assert (newest["has_more"], older["has_more"]) == (True, False)


async def test_who_is_asked_for() -> None:
    """Without a session or a key nothing is told; a page of another site cannot use the session."""
    async with ConversationWorld() as world:
        id_ = await world.begin()
        for method, path, body in (
            ("POST", "", {}),
            ("GET", "", None),
            ("GET", f"/{id_}", None),
            ("PATCH", f"/{id_}", {"title": "x"}),
            ("DELETE", f"/{id_}", None),
            ("POST", f"/{id_}/turns", {"text": "Hi"}),
        ):
            nobody = await world.send(method, path, who="nobody", json=body)
            assert (nobody.status, nobody.json()["error"]["code"]) == (401, "session_required"), (
                method,
                path,
            )
            foreign = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
            other_site = await world.send(method, path, headers=foreign, json=body)
            assert (other_site.status, other_site.json()["error"]["code"]) == (403, "csrf_refused")
        assert (await world.read(id_))["turns"] == []


async def test_callers() -> None:
    """An API key owns conversations of its own."""
    async with ConversationWorld(caller_keys=("sk-a", "sk-b")) as world:
        keys = {name: {"authorization": f"Bearer sk-{name}"} for name in "ab"}
        begun = await world.client.request("POST", PATH, headers=keys["a"], json={})
        path = f"{PATH}/{begun.json()['id']}"
        own = await world.client.request("POST", f"{path}/turns", headers=keys["a"], json={"text": "Hi"})
        assert own.json()["kept"] is True
        for headers, expected in ((keys["b"], 404), ({}, 401)):
            reply = await world.client.request("GET", path, headers=headers)
            assert reply.status == expected


async def test_methods() -> None:
    """Other methods are refused with those that the path takes; HEAD is as GET."""
    async with ConversationWorld() as world:
        id_ = await world.begin()
        for path, method, allowed in (
            ("", "PUT", "GET, HEAD, OPTIONS, POST"),
            (f"/{id_}", "POST", "DELETE, GET, HEAD, OPTIONS, PATCH"),
            (f"/{id_}/turns", "GET", "OPTIONS, POST"),
        ):
            reply = await world.send(method, path)
            assert (reply.status, reply.headers["allow"]) == (405, allowed)
        for path in ("", f"/{id_}"):
            assert (await world.send("HEAD", path)).status == 200


async def test_a_conversation_that_is_too_long() -> None:
    """9,000 tokens on a window of 8,000 are answered: two exchanges stay, and what is left out is said."""
    text = "word " * 1_500
    async with ConversationWorld(
        ConversationSettings(context_tokens=8_000, question_chars_max=10_000),
        one=counting(text, prompt=0, answer=0),
    ) as world:
        id_ = await world.begin()
        turns = [await world.turn(id_, f"Question {n}? {text}") for n in range(3)]
        tokens = sum(turn[part]["tokens"] for turn in turns for part in ("question", "answer"))
        assert tokens > 9_000, tokens

        reply = await world.ask_in(id_, "And now?", stream=True)
        assert reply.status == 200
        assert said(reply.body) == text
        prompt = world.prompts()[-1]
        assert [message["role"] for message in prompt] == ["user", "assistant"] * 2 + ["user"]
        assert [m["content"].partition("?")[0] for m in prompt[::2]] == [
            "Question 1",
            "Question 2",
            "And now",
        ]
        pruned = messages(reply.body)[1]["pruned"]
        assert pruned["turns"] == 1 and pruned["tokens"] >= tokens // 3
        assert reply.headers["x-dub5-pruned"] == f"turns={pruned['turns']};tokens={pruned['tokens']}"
        event = world.of(HistoryPruned)[-1]
        assert (event.route, event.turns, event.tokens) == ("chat", pruned["turns"], pruned["tokens"])


async def test_the_window_of_the_targets() -> None:
    """The smallest window of the model's targets counts; the gateway finds that the prompt fits in it."""
    async with ConversationWorld(ConversationSettings(question_chars_max=10_000)) as world:
        provider = ProviderSettings("one", "openai", "http://one.test/v1", context_tokens={"m": 2_000})
        settings = world.service.settings
        world.service.reload(replace(world.loaded, settings=replace(settings, provider=(provider,))))
        id_ = await world.begin()
        for n in range(6):
            await world.turn(id_, f"Question {n} " + "word " * 150)
        assert len(world.prompts()[-1]) < 2 * 5 + 1
        assert world.of(HistoryPruned)


async def test_more_turns_than_are_read() -> None:
    """Of a long conversation no more is read than may fit; what is not read is counted as left out."""
    async with ConversationWorld(ConversationSettings(context_tokens=800, answer_tokens=300)) as world:
        id_ = await world.begin()
        turn = await world.turn(id_, "Hi")
        for n in range(250):
            world.database.storage.rows(COPY, f"{n:026d}", turn["id"])
        last = await world.turn(id_, "And?")
        assert last["pruned"]["turns"] >= 51
        ((owner,),) = world.database.storage.rows("SELECT owner FROM conversation")
        found = await world.database.read(HISTORY.bind(owner, id_, "", "", 800))
        assert len(world.prompts()[-1]) // 2 <= len(found) < 200
        assert len(world.prompts()[-1]) // 2 + last["pruned"]["turns"] == 251


@pytest.mark.parametrize("dies", [True, False])
async def test_another_process(dies: bool) -> None:
    """A question that another process answers is waited for; if that process has died, its turn is cut."""
    async with ConversationWorld(one=healthy(first_s=5.0)) as world:
        id_ = await world.begin()
        other = ConversationWorld(database=world.database.reopen(), seed="other")
        async with other:
            other.cookies = world.cookies
            path, body = f"{PATH}/{id_}/turns", {"text": "Hi", "id": "same"}
            first = asyncio.create_task(
                world.client.request("POST", path, headers=world.signed("me"), json=body)
            )
            await asyncio.sleep(1)
            if dies:
                world.database.kill()
                first.cancel()
                rows = world.database.storage.rows
                rows("DELETE FROM worker WHERE id = $1", world.service.store.worker)
            second = await other.ask_in(id_, "Hi", id="same")
            assert second.status == 200
            assert second.json()["outcome"] == ("cut" if dies else "complete")
            assert other.asked["one"] == []
            if not dies:
                assert second.json()["id"] == (await first).json()["id"]
            assert other.of(TurnEnded)[-1].repeated
        await asyncio.wait({first})


async def test_a_deadline() -> None:
    """Who waits for an equal question waits no longer than its deadline."""
    async with ConversationWorld(one=healthy(first_s=20.0)) as world:
        id_ = await world.begin()
        first = asyncio.create_task(world.ask_in(id_, "Hi", id="same"))
        await asyncio.sleep(1)
        late = await world.ask_in(id_, "Hi", id="same", headers={"x-deadline-ms": "2000"})
        assert (late.status, late.json()["error"]["code"]) == (503, "deadline_exceeded")
        assert (await first).json()["outcome"] == "complete"


async def test_a_reload() -> None:
    """A reload of the settings keeps what is open: an equal question waits for the one before."""
    async with ConversationWorld(one=healthy(first_s=5.0)) as world:
        id_ = await world.begin()
        first = asyncio.create_task(world.ask_in(id_, "Hi", id="same"))
        await asyncio.sleep(1)
        world.service.reload(world.loaded)
        second = await world.turn(id_, "Hi", id="same")
        assert (await first).json() == second and second["outcome"] == "complete"
        assert len(world.asked["one"]) == 1


async def test_a_drain() -> None:
    """A drain that cuts a stream says so in the stream, and the turn is kept as cut."""
    async with ConversationWorld(
        one=healthy(gap_s=30.0), server=ServerSettings(announce_s=0.0, drain_s=1.0)
    ) as world:
        id_ = await world.begin()
        asked = asyncio.create_task(world.ask_in(id_, "Hi", stream=True))
        await asyncio.sleep(1)
        await world.service.drain()
        last = messages((await asked).body)[-1]
        assert (last["type"], last["error"]["code"]) == ("error", "shutting_down")
        await asyncio.sleep(0.1)
        (row,) = world.database.storage.rows("SELECT outcome, answer FROM turn")
        assert row == ("cut", "hello ")


async def test_rate_limits_and_ids() -> None:
    """A turn is a request as others are: its id is the caller's, and its rate limits are told."""
    async with ConversationWorld() as world:
        id_ = await world.begin()
        reply = await world.ask_in(id_, "Hi", headers={"x-request-id": "mine-1"})
        assert reply.headers["x-request-id"] == "mine-1"
        assert reply.headers["x-dub5-target"] == "one/m"
        (row,) = world.database.storage.rows("SELECT request_id FROM turn")
        assert row == ("mine-1",)
        client = AppClient(world.service.asgi, lifespan=False)
        assert (await client.request("GET", PATH, headers=PAGE)).status == 401
