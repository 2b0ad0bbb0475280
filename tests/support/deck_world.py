"""A service with documents and decks, in virtual time, over providers that write cards of their prompts."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from dub5.simulators.personas.flashcards import flashcards
from dub5.simulators.script import Data, End, Head, Respond, Script, SimRequest, Wait
from dub5.simulators.virtual import AppResponse
from tests.support.document_world import DocumentWorld
from tests.support.world import SSE, chunk

DECKS = "/v1/decks"
OPEN_JOBS = "SELECT COUNT(*) FROM job WHERE subject = $1 AND ended_at IS NULL"
WORDS = (
    *("cell", "membrane", "nucleus", "enzyme", "protein", "water", "oxygen", "energy", "light", "sugar"),
    *("root", "leaf", "stem", "seed", "flower"),
)


def text_of(parts: int) -> str:
    """Return a text that is cut into so many parts."""
    return "\n\n".join(section(number) for number in range(1, parts + 1))


def section(number: int) -> str:
    """Return a section as long as a part: with a heading, a definition, and sentences that differ."""
    facts = [
        f"Fact {number}.{i} says that the {WORDS[i % 15]} of plant {number} needs {WORDS[(i + number) % 15]}."
        for i in range(35)
    ]
    return f"# Section {number}\n\nPhase{number} is the stage number {number} of growth. " + " ".join(facts)


def writing(text: Callable[[str], str], *, first_s: float = 0.5) -> Respond:
    """Answer each prompt with the text that a function makes of it, as a stream."""

    def respond(request: SimRequest) -> Script:
        prompt = json.loads(request.body)["messages"][-1]["content"]
        yield Head(200, SSE)
        yield Wait(first_s)
        for line in text(prompt).splitlines(keepends=True):
            yield chunk({"content": line})
        yield chunk({}, "stop")
        yield Data(b"data: [DONE]\n\n")
        yield End()

    return respond


def cards(prompt: str) -> str:
    """Return true cards of the material in a prompt."""
    return flashcards(prompt) or "Hello."


def lies(prompt: str) -> str:
    """Return cards whose quotes are invented."""
    return cards(prompt).replace('"quote":"', '"quote":"It is well known that ')


class DeckWorld(DocumentWorld):
    """A service whose pages have decks: `async with DeckWorld() as world`. Its provider writes true cards."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**({"one": writing(cards)} | more))

    async def decks(
        self, method: str = "GET", path: str = "", *, who: str = "me", **more: Any
    ) -> AppResponse:
        """Send a request to the routes of decks."""
        headers = self.signed(who, more.pop("headers", {}))
        return await self.client.request(method, f"{DECKS}{path}", headers=headers, **more)

    async def make(self, parts: int = 3, who: str = "me", **given: Any) -> Any:
        """Upload a text of so many parts, and begin a deck of it. Return the deck."""
        document = await self.document(text_of(parts).encode(), who=who)
        made = await self.decks("POST", who=who, json={"document": document["id"], **given})
        assert made.status == 202, made.body
        return made.json()

    async def deck(self, id_: str, who: str = "me") -> Any:
        """Return a deck with its cards."""
        found = await self.decks(path=f"/{id_}", who=who)
        assert found.status == 200, found.body
        return found.json()

    async def until_over(self, id_: str, within_s: float = 3_600.0) -> Any:
        """Wait for the end of a deck's job. Return the deck."""
        async with asyncio.timeout(within_s):
            while self.database.storage.rows(OPEN_JOBS, id_) != [(0,)]:
                await asyncio.sleep(0.25)
        return await self.deck(id_)

    def asked_parts(self, provider: str = "one") -> list[int]:
        """Return the number of the part in each request to a provider, in order."""
        prompts = [messages[-1]["content"] for messages in self.prompts(provider)]
        found = [prompt.partition("# Section ")[2].partition("\n")[0] for prompt in prompts]
        return [int(number) for number in found if number]  # the others are probes
