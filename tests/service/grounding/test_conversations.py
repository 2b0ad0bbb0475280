"""Conversations about a document of their owner: whole, as streams, resumed, and without the document."""

import asyncio
from typing import Any

from dub5.service.config.settings import ConversationSettings
from dub5.service.events import StatementEnded
from dub5.simulators.script import Respond
from dub5.simulators.virtual.database import DatabaseFault
from tests.support.conversation_world import messages, said
from tests.support.document_world import DocumentWorld
from tests.support.resumes import LIE, RESUME, SECOND, TRUE, saying

GLOBEX = "She has worked at Globex since 2020 [6]."
LEFT_OUT = "One statement was left out, because it was not found in the document."


class ResumeWorld(DocumentWorld):
    """A service with conversations about the resume."""

    def __init__(self, respond: Respond, **more: Any) -> None:
        super().__init__(one=respond, **more)

    async def about(self, text: str = RESUME, **given: Any) -> tuple[str, str]:
        """Upload a document and begin a conversation about it. Return the ids of both."""
        document = (await self.document(text.encode(), "jane.txt"))["id"]
        return document, await self.begin(document=document, **given)


async def test_a_turn() -> None:
    """A question is asked with the passages, its answer is checked, and the turn keeps the report."""
    async with ResumeWorld(saying(f"{TRUE} {LIE}")) as world:
        document, conversation = await world.about()
        turn = await world.turn(conversation, "What did she do at Acme?")
        again = (await world.read(conversation))["turns"][0]
        shown = await world.read(conversation)
        prompt = world.prompts()[0]
    assert turn["answer"]["text"] == f"{TRUE}\n\n{LEFT_OUT}"
    report = turn["grounding"]
    assert (report["grounded"], report["withheld"]) == (True, 1)
    assert [source["number"] for source in report["sources"]] == [4]
    assert again["grounding"] == report
    assert shown["document"] == document
    assert [message["role"] for message in prompt] == ["system", "user"]
    assert "[4] Led a team of 5 engineers" in prompt[0]["content"]


async def test_a_stream() -> None:
    """The messages of a turn count the bytes of what was told, and `end` has the report."""
    async with ResumeWorld(saying(f"{TRUE} {LIE} {SECOND}")) as world:
        _, conversation = await world.about()
        answer = await world.ask_in(conversation, "What did she do at Acme?", stream=True)
        stored = (await world.read(conversation))["turns"][0]
    text = said(answer.body)
    assert text == f"{TRUE} {SECOND}\n\n{LEFT_OUT}" == stored["answer"]["text"]
    end = messages(answer.body)[-1]
    assert end["type"] == "end"
    assert end["seq"] == len(text.encode())
    assert (end["grounding"]["grounded"], end["grounding"]["withheld"]) == (True, 1)


async def test_resumed() -> None:
    """A reader who lost the connection reads on from a position, to the same text and the same report."""
    async with ResumeWorld(saying(f"{TRUE} {SECOND} {LIE}", gap_s=0.1)) as world:
        _, conversation = await world.about()
        async with world.asking(conversation, "What did she do at Acme?") as stream:
            first = b""
            while b"delta" not in first:
                first += await stream.read()
        turn = messages(first)[0]["turn"]
        position = messages(first)[-1]["seq"]
        rest = await world.client.request(
            "GET", f"/v1/turns/{turn}/events?after={position}", headers=world.signed("me")
        )
        whole = (await world.read(conversation))["turns"][0]
    told = "".join(each.get("text", "") for each in messages(first) + messages(rest.body))
    assert told == whole["answer"]["text"] == f"{TRUE} {SECOND}\n\n{LEFT_OUT}"
    assert messages(rest.body)[-1]["grounding"] == whole["grounding"]


async def test_the_next_question() -> None:
    """The history of a conversation holds what was told, not what was withheld."""
    async with ResumeWorld(saying(f"{TRUE} {LIE}")) as world:
        _, conversation = await world.about()
        await world.turn(conversation, "What did she do at Acme?")
        await world.turn(conversation, "And then?")
        prompt = world.prompts()[-1]
    assert [message["role"] for message in prompt] == ["system", "user", "assistant", "user"]
    assert "50 engineers" not in str(prompt)


async def test_the_text_is_read_once() -> None:
    """A document that was asked about lately is only looked for: its text never changes."""
    async with ResumeWorld(saying(TRUE)) as world:
        _, conversation = await world.about()
        for question in ("What did she do at Acme?", "And then?"):
            await world.turn(conversation, question)
        asked = [event.statement for event in world.events if isinstance(event, StatementEnded)]
    assert asked.count("document_text") == 1
    assert asked[asked.index("document_text") :].count("document_read") == 1


async def test_the_window() -> None:
    """The passages have their place in the window of the model: old turns give way to them."""
    small = ConversationSettings(context_tokens=1_200, answer_tokens=200)
    async with ResumeWorld(saying(TRUE), conversation=small) as world:
        plain = await world.begin()
        _, conversation = await world.about()
        for _ in range(8):
            await world.turn(plain, "word " * 60)
            last = await world.turn(conversation, "word " * 60)
        sizes = [len(prompt) for prompt in world.prompts()]
    assert last["pruned"]["turns"] > 0
    assert sizes[-1] < sizes[-2]


async def test_deleted() -> None:
    """After its document was deleted, a conversation can be read; a question is told so, and is kept."""
    async with ResumeWorld(saying(TRUE)) as world:
        document, conversation = await world.about()
        await world.turn(conversation, "What did she do at Acme?")
        await world.documents("DELETE", f"/{document}")
        refused = await world.ask_in(conversation, "And at Globex?")
        turns = (await world.read(conversation))["turns"]
        asked = len(world.prompts())
    assert (refused.status, refused.json()["error"]["code"]) == (404, "document_not_found")
    assert "was deleted" in refused.json()["error"]["message"]
    assert [turn["outcome"] for turn in turns] == ["complete", "refused"]
    assert turns[0]["answer"]["text"] == TRUE
    assert asked == 1


async def test_whose_it_is() -> None:
    """Nobody begins a conversation about a document of somebody else, of nobody, or in place of another."""
    async with ResumeWorld(saying(TRUE)) as world:
        document, conversation = await world.about()
        theirs = await world.send("POST", who="you", json={"document": document})
        nobodys = await world.send("POST", json={"document": "00000000000000000000000000"})
        odd = await world.send("POST", json={"document": "x"})
        changed = await world.send("PATCH", f"/{conversation}", json={"document": document})
    assert [reply.status for reply in (theirs, nobodys, odd, changed)] == [404, 404, 404, 400]
    assert theirs.json()["error"]["message"] == nobodys.json()["error"]["message"]
    assert changed.json()["error"]["param"] == "document"


async def test_a_lost_database() -> None:
    """While the database is lost, a document that was asked about before is asked about still."""
    async with ResumeWorld(saying(f"{TRUE} {LIE}")) as world:
        _, conversation = await world.about()
        await world.turn(conversation, "What did she do at Acme?")
        world.database.storage.faults = (DatabaseFault(kind="lost", at_s=0.0, for_s=600.0),)
        turn = await world.turn(conversation, "What did she do at Acme?")
    assert turn["memory"] == "lost"
    assert turn["grounding"]["withheld"] == 1


async def test_two_at_once() -> None:
    """Two conversations about two documents do not mix."""
    other = RESUME.replace("5 engineers", "50 engineers")
    async with ResumeWorld(saying(LIE)) as world:
        (_, first), (_, second) = await world.about(), await world.about(other)
        one, two = await asyncio.gather(world.turn(first, "Team?"), world.turn(second, "Team?"))
    assert one["grounding"]["withheld"] == 1
    assert two["answer"]["text"] == LIE
