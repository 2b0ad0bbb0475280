"""Feedback, as people give it and as the operator reads it."""

import asyncio
import json
from typing import Any

import pytest

from dub5.service import clock
from dub5.service.api.feedback import BODY_BYTES_MAX, NOTE_CHARS_MAX
from dub5.service.events import FeedbackGiven
from dub5.service.feedback import statements
from dub5.service.feedback.feedback import PER_DAY_MAX
from dub5.service.telemetry import names
from dub5.simulators.virtual import AppResponse
from dub5.simulators.virtual.database import DatabaseFault, VirtualStorage
from tests.support.conversation_world import PAGE, ConversationWorld, schema
from tests.support.world import ServiceWorld, healthy, status

PATH, ADMIN = "/v1/feedback", "/admin/feedback"
OTHER = "01ARZ3NDEKTSV4RRFFQ69G5FAX"


async def give(world: ConversationWorld, who: str = "me", **said: Any) -> AppResponse:
    """Give feedback as the page of a visitor does."""
    return await world.client.request("POST", PATH, headers=world.signed(who), json=said)


async def thumb(world: ConversationWorld, turn: str, value: int, who: str = "me", **more: Any) -> AppResponse:
    """Say of the answer of a turn what it is worth."""
    return await give(world, who, kind="answer", turn=turn, value=value, **more)


async def order(world: ServiceWorld, method: str, path: str = "", **more: Any) -> AppResponse:
    """Send a command as the operator does."""
    token = world.service.admin.token.reveal()
    headers = {"authorization": f"Bearer {token}", "host": "127.0.0.1:8080"} | more.pop("headers", {})
    return await world.client.request(method, f"{ADMIN}{path}", headers=headers, **more)


async def asked(world: ConversationWorld, who: str = "me") -> tuple[str, str]:
    """Ask a question; return the conversation and the turn."""
    conversation = await world.begin(who)
    return conversation, (await world.turn(conversation, "Hi", who=who))["id"]


async def test_a_thumb_is_kept_with_its_target() -> None:
    """A thumb finds its target and route by its turn, and is counted for that target."""
    async with ConversationWorld() as world:
        _, turn = await asked(world)
        given = await thumb(world, turn, -1, note="Too  long\x07 \r\n")
        assert given.status == 201
        said = given.json()
        assert (said["value"], said["note"], said["turn"], said["kept"]) == (-1, "Too  long", turn, True)
        (kept,) = (await order(world, "GET")).json()["data"]
        assert (kept["target"], kept["route"], kept["state"]) == ("one/m", "chat", "open")
        assert kept["request_id"], "the log lines of the request are found by it"
        scraped = (await world.client.request("GET", "/metrics")).body.decode()
        assert f'{names.FEEDBACK.prometheus_name}{{kind="answer",target="one/m",value="down"}} 1.0' in scraped
        (event,) = world.of(FeedbackGiven)
        assert (event.kept, event.note) == (True, None), "what the database has is not in the log"


async def test_the_later_thumb_wins() -> None:
    """One thumb stands for each owner and answer, however often it is given; the later one."""
    async with ConversationWorld() as world:
        conversation, turn = await asked(world)
        for value in (1, -1, -1, 1, -1):
            assert (await thumb(world, turn, value)).status == 201
        (shown,) = await thumbs(world, conversation)
        assert (shown["turn"], shown["value"]) == (turn, -1)
        assert len((await order(world, "GET")).json()["data"]) == 1


async def thumbs(world: ConversationWorld, conversation: str, who: str = "me", more: str = "") -> Any:
    """Return the thumbs that a visitor sees in a conversation."""
    query = f"?conversation={conversation}{more}"
    found = await world.client.request("GET", f"{PATH}{query}", headers=world.signed(who))
    assert found.status == 200, found.body
    return found.json()["data"]


async def test_thumbs_are_found_again() -> None:
    """A page that is loaded again shows the thumbs of its conversation, page by page."""
    async with ConversationWorld() as world:
        conversation = await world.begin()
        turns = [(await world.turn(conversation, text))["id"] for text in ("a", "b", "c")]
        for turn in turns:
            await thumb(world, turn, 1)
        await give(world, kind="issue", note="It is slow.", turn=turns[0])
        assert [one["turn"] for one in await thumbs(world, conversation)] == turns[::-1]
        assert [one["turn"] for one in await thumbs(world, conversation, more="&limit=1")] == [turns[2]]
        assert [one["turn"] for one in await thumbs(world, conversation, more=f"&before={turns[1]}")] == [
            turns[0]
        ]


async def test_strangers() -> None:
    """A stranger's thumb finds no turn of mine, changes nothing, and sees none of my feedback."""
    async with ConversationWorld() as world:
        conversation, turn = await asked(world)
        await thumb(world, turn, 1)
        refused = await thumb(world, turn, -1, "you")
        assert (refused.status, refused.json()["error"]["code"]) == (404, "conversation_not_found")
        for unknown in (OTHER, "no id", ""):
            assert (await thumb(world, unknown, 1)).status == 404
        assert await thumbs(world, conversation, "you") == []
        assert [one["value"] for one in await thumbs(world, conversation)] == [1]
        assert len(world.of(FeedbackGiven)) == 1


async def test_a_deleted_conversation() -> None:
    """Feedback outlives its conversation, without a link to it."""
    async with ConversationWorld() as world:
        conversation, turn = await asked(world)
        await thumb(world, turn, -1, note="Wrong")
        await world.send("DELETE", f"/{conversation}")
        (kept,) = (await order(world, "GET")).json()["data"]
        assert (kept["turn"], kept["note"], kept["target"]) == (None, "Wrong", "one/m")
        assert (await thumb(world, turn, 1)).status == 404


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "kind"),
    ({"kind": "praise"}, "kind"),
    ({"kind": "answer", "turn": OTHER}, "value"),
    ({"kind": "answer", "turn": OTHER, "value": 0}, "value"),
    ({"kind": "answer", "turn": OTHER, "value": "1"}, "value"),
    ({"kind": "answer", "value": 1}, "turn"),
    ({"kind": "answer", "value": 1, "turn": OTHER, "request_id": "req_1"}, "request_id"),
    ({"kind": "answer", "value": 1, "request_id": "a b"}, "request_id"),
    ({"kind": "issue"}, "note"),
    ({"kind": "issue", "note": " \x00\n"}, "note"),
    ({"kind": "issue", "note": "n", "value": 1}, "value"),
    ({"kind": "issue", "note": "n" * (NOTE_CHARS_MAX + 1)}, "note"),
    ({"kind": "issue", "note": 7}, "note"),
    ({"kind": "issue", "note": "n", "stars": 5}, "stars"),
]


@pytest.mark.parametrize(("said", "param"), WRONG, ids=lambda one: json.dumps(one)[:60])
async def test_what_is_wrong(said: dict[str, Any], param: str) -> None:
    """Feedback that says nothing, or says it wrongly, is refused with the name of the field."""
    async with ConversationWorld() as world:
        refused = await give(world, **said)
        assert refused.status == 400, refused.body
        error = refused.json()["error"]
        assert param in (error["param"] or "") or param in error["message"]
        assert (await order(world, "GET")).json()["data"] == []


async def test_a_large_body() -> None:
    """A body over the bound is refused before it is read whole."""
    async with ConversationWorld() as world:
        refused = await give(world, kind="issue", note="n" * BODY_BYTES_MAX)
        assert refused.status == 413


async def test_a_note_of_any_letters() -> None:
    """A note is as long as it may be in letters of any writing."""
    async with ConversationWorld() as world:
        given = await give(world, kind="issue", note="漢" * NOTE_CHARS_MAX)
        assert (given.status, given.json()["note"]) == (201, "漢" * NOTE_CHARS_MAX)


async def test_bounded() -> None:
    """An owner gives feedback so often in a day, not more; others do, and a thumb that stands can change."""
    async with ConversationWorld() as world:
        _, turn = await asked(world)
        await thumb(world, turn, 1)
        for number in range(PER_DAY_MAX - 1):
            assert (await give(world, kind="issue", note=f"It is slow: {number}")).status == 201
        refused = await give(world, kind="crash")
        assert (refused.status, refused.json()["error"]["code"]) == (429, "rate_limited")
        assert int(refused.headers["retry-after"]) > 0
        assert (await thumb(world, turn, -1)).status == 201
        assert (await give(world, "you", kind="crash")).status == 201


async def test_the_operator() -> None:
    """The operator reads what matches, page by page, and marks it as done; a new thumb opens it again."""
    async with ConversationWorld() as world:
        _, turn = await asked(world)
        await thumb(world, turn, -1)
        await give(world, "you", kind="issue", note="It is slow.")
        await give(world, kind="crash", note="TypeError")
        everything = (await order(world, "GET")).json()
        assert [one["kind"] for one in everything["data"]] == ["crash", "issue", "answer"]
        assert not everything["has_more"]
        first = (await order(world, "GET", "?limit=2")).json()
        assert first["has_more"]
        rest = (await order(world, "GET", f"?limit=2&before={first['data'][-1]['id']}")).json()
        assert [one["kind"] for one in rest["data"]] == ["answer"]
        for query, count in {
            "kind=issue": 1,
            "value=-1": 1,
            "value=1": 0,
            "target=one/m": 1,
            "target=two/m": 0,
            "state=open": 3,
            "state=done": 0,
            "kind=answer&target=one/m&value=-1&state=open": 1,
        }.items():
            assert len((await order(world, "GET", f"?{query}")).json()["data"]) == count, query
        id_ = rest["data"][0]["id"]
        done = await order(world, "PATCH", f"/{id_}", json={"state": "done"})
        assert (done.status, done.json()["state"]) == (200, "done")
        assert done.json()["done_at"] is not None
        assert len((await order(world, "GET", "?state=done")).json()["data"]) == 1
        await thumb(world, turn, 1)
        assert len((await order(world, "GET", "?state=done")).json()["data"]) == 0
        assert (await order(world, "PATCH", f"/{id_}", json={"state": "done"})).status == 404, "it is another"
        assert "session:" in everything["data"][0]["owner"]
        session = world.service.deps.sessions
        assert session is not None
        assert world.cookies["me"] not in json.dumps(everything)


async def test_what_the_operator_may_get_wrong() -> None:
    """A wrong filter, id or state is refused in words."""
    async with ConversationWorld() as world:
        for query in ("kind=praise", "value=2", "state=new", "limit=0", "before=x", "target=%00"):
            assert (await order(world, "GET", f"?{query}")).status == 400, query
        assert (await order(world, "PATCH", "/x", json={"state": "done"})).status == 404
        assert (await order(world, "PATCH", f"/{OTHER}", json={"state": "done"})).status == 404
        assert (await order(world, "PATCH", f"/{OTHER}", json={"state": "new"})).status == 400


async def test_nobody_else_is_the_operator() -> None:
    """Without the token, or from another machine or page, there is no list of feedback."""
    async with ConversationWorld() as world:
        await give(world, kind="issue", note="It is slow.")
        id_ = (await order(world, "GET")).json()["data"][0]["id"]
        for method, path in (("GET", ""), ("PATCH", f"/{id_}")):
            more: Any = {"json": {"state": "done"}} if method == "PATCH" else {}
            wrong = await order(world, method, path, headers={"authorization": "Bearer no"}, **more)
            assert wrong.status == 401
            for headers in ({"host": "dub5.example"}, {"x-forwarded-for": "1.2.3.4"}, {"origin": "http://x"}):
                assert (await order(world, method, path, headers=headers, **more)).status == 404


async def test_a_page_of_another_site() -> None:
    """A page of another site cannot give feedback with a visitor's cookie."""
    async with ConversationWorld() as world:
        cookie = {"cookie": world.cookies["me"], "sec-fetch-site": "cross-site"}
        said = {"kind": "issue", "note": "Spam"}
        refused = await world.client.request("POST", PATH, headers=cookie, json=said)
        assert (refused.status, refused.json()["error"]["code"]) == (403, "csrf_refused")
        nobody = await world.client.request("POST", PATH, headers=PAGE, json=said)
        assert (nobody.status, nobody.json()["error"]["code"]) == (401, "session_required")


async def test_the_answer_of_a_request() -> None:
    """Without a turn, the target is found by the id of the request, as long as the process knows it."""
    async with ConversationWorld() as world:
        answered = await world.client.request(
            "POST",
            "/v1/chat/completions",
            headers=world.signed("me"),
            json={"model": "chat", "messages": [{"role": "user", "content": "Hi"}]},
        )
        id_ = answered.headers["x-request-id"]
        for who, expected in (("you", None), ("me", "one/m")):
            assert (await give(world, who, kind="answer", value=1, request_id=id_)).status == 201
            (newest, *_) = (await order(world, "GET")).json()["data"]
            assert (newest["request_id"], newest["target"]) == (id_, expected), who
        assert (await give(world, kind="answer", value=-1, request_id="req_unknown")).status == 201
        assert len((await order(world, "GET")).json()["data"]) == 3


async def test_without_a_database() -> None:
    """Where nothing is kept, feedback is a line of the log, and says so; it is bounded all the same."""
    async with ServiceWorld(one=status(530), two=healthy()) as world:
        events: list[Any] = []
        world.service.events.subscribe(events.append)
        answered = await world.ask()
        said = {"kind": "answer", "value": -1, "note": "No", "request_id": answered.headers["x-request-id"]}
        given = await world.client.request("POST", PATH, json=said)
        assert (given.status, given.json()["kept"]) == (202, False)
        (event,) = (one for one in events if isinstance(one, FeedbackGiven))
        assert (event.target, event.value, event.note, event.kept) == ("two/m", -1, "No", False)
        assert world.happened("feedback_down") == 1
        for _ in range(PER_DAY_MAX - 1):
            assert (await world.client.request("POST", PATH, json={"kind": "crash"})).status == 202
        assert (await world.client.request("POST", PATH, json={"kind": "crash"})).status == 429
        turned = await world.client.request("POST", PATH, json=said | {"request_id": None, "turn": OTHER})
        assert turned.status == 404
        assert (await world.client.request("GET", f"{PATH}?conversation={OTHER}")).status == 404
        assert (await order(world, "GET")).status == 404


async def test_a_lost_database() -> None:
    """While the database is lost, feedback is in the log, and the client is told; reading is refused."""
    async with ConversationWorld() as world:
        conversation, turn = await asked(world)
        await thumb(world, turn, 1)
        world.database.storage.faults = (DatabaseFault(kind="lost"),)
        for number in range(12):
            given = await give(world, kind="issue", note=f"It is slow: {number}")
            assert (given.status, given.json()["kept"]) == (202, False)
        logged = [event.note for event in world.of(FeedbackGiven) if not event.kept]
        assert logged == [f"It is slow: {number}" for number in range(12)]
        refused = await world.client.request(
            "GET", f"{PATH}?conversation={conversation}", headers=world.signed("me")
        )
        assert (refused.status, refused.json()["error"]["code"]) == (503, "storage_unavailable")
        assert (await order(world, "GET")).status == 503
        assert (await order(world, "PATCH", f"/{OTHER}", json={"state": "done"})).status == 503
        world.database.storage.faults = ()
        await asyncio.sleep(10)
        assert [one["value"] for one in await thumbs(world, conversation)] == [1]


async def test_a_write_whose_answer_is_lost() -> None:
    """A thumb that is sent to the database again does no harm: neither to a later one nor to what is done."""
    async with ConversationWorld() as world:
        conversation, turn = await asked(world)
        world.database.storage.faults = (DatabaseFault(kind="unsure", at_s=clock.now(), for_s=0.05),)
        given = await thumb(world, turn, -1)
        assert given.status == 201, "it was sent again, and is there once"
        assert world.database.storage.repeated > 0
        assert [one["value"] for one in await thumbs(world, conversation)] == [-1]


@pytest.mark.parametrize("later", [True, False])
def test_the_order_of_ids_decides(later: bool) -> None:
    """Whatever order two thumbs reach the database in, the later one stands; a done one stays done."""
    storage = VirtualStorage(schema())
    thumbs = [("1", 1), ("2", -1)]
    for id_, value in thumbs if later else thumbs[::-1]:
        give = ("me", id_, "answer", "request r", value, None, 1.0, 0.0, 10, "r", None, None)
        storage.rows(statements.GIVE.sql, *give)
    assert storage.rows("SELECT id, value FROM feedback") == [("2", -1)]
    storage.rows(statements.MARK.sql, "2", "done", 5.0)
    storage.rows(
        statements.GIVE.sql, *("me", "2", "answer", "request r", -1, None, 1.0, 0.0, 10), *3 * ("r",)
    )
    assert storage.rows("SELECT state FROM feedback") == [("done",)]


def test_old_feedback_is_deleted() -> None:
    """Retention deletes what is older, in batches, the oldest first."""
    storage = VirtualStorage(schema())
    for number in range(5):
        give = ("me", str(number), "issue", str(number), None, "n", float(number), 0.0, 10, None, None, None)
        storage.rows(statements.GIVE.sql, *give)
    assert storage.rows(statements.DELETE_OLD.sql, 3.0, 2) == [("0",), ("1",)]
    assert storage.rows(statements.DELETE_OLD.sql, 3.0, 2) == [("2",)]
    assert storage.rows("SELECT id FROM feedback ORDER BY id") == [("3",), ("4",)]


async def test_retention() -> None:
    """The service deletes feedback that is older than conversations may be, and nothing younger."""
    async with ConversationWorld() as world:
        await give(world, kind="issue", note="It is old.")
        world.database.storage.rows("UPDATE feedback SET made_at = made_at - 31 * 86400")
        await give(world, kind="issue", note="It is new.")
        await asyncio.sleep(2 * 3600)
        assert [one["note"] for one in (await order(world, "GET")).json()["data"]] == ["It is new."]
