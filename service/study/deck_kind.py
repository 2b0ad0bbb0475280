"""DeckKind: who does the jobs of decks. One step asks for the cards of one part, and keeps them.

a model's cards that quote the part -> kept     none, or no answer -> cards from the text itself, so labelled
"""

from collections import OrderedDict
from collections.abc import Callable
from random import Random

import msgspec

from dub5.service import clock
from dub5.service.errors import GatewayError, ModelNotFound
from dub5.service.jobs.model import Job, JobFailed
from dub5.service.store.base import BoundStatement
from dub5.service.store.store import Store
from dub5.service.study import statements
from dub5.service.study.asking import Asker, BackgroundQuestion
from dub5.service.study.cards import Flashcard, card_messages, draw_mark, grounded, read_cards
from dub5.service.study.model import CardSource
from dub5.service.study.outage import WHOLE_S, Outage, after_failure, first_token_limit_s
from dub5.service.study.templates import template_cards

KIND = "deck"
REMEMBERED_MAX = 1_000  # jobs whose outage is known; a forgotten one is found out again


class PartToAsk(msgspec.Struct, frozen=True, array_like=True):
    """A part of a deck whose cards are to be made."""

    number: int
    wanted: int
    text: str
    title: str
    model: str


class DeckKind:
    """The jobs of decks. `asker` returns the current one: a reload of the settings replaces it."""

    def __init__(self, store: Store, asker: Callable[[], Asker], rng: Random) -> None:
        self._store = store
        self._asker = asker
        self._rng = rng
        self._outages: OrderedDict[str, Outage] = OrderedDict()

    async def step(self, job: Job) -> list[BoundStatement]:
        """Make the cards of the next part. Return the write that keeps them; none if nothing is left to do.

        Raises JobFailed, StoreLost, and the GatewayError of an ask that is to be made again.
        """
        bound = statements.NEXT_PART.bind(job.owner, job.subject, job.id)
        rows = await self._store.read(bound, lane=job.subject, patiently=True)
        if not rows:  # the deck is deleted, or another job has it
            return []
        part = msgspec.convert(rows[0], PartToAsk)
        cards, source = await self._ask(job, part), CardSource.MODEL
        if not cards:
            cards, source = template_cards(part.text, part.wanted), CardSource.TEMPLATE
        text = msgspec.json.encode(cards).decode()
        values = (job.owner, job.subject, job.id, part.number, text, source)
        return [statements.KEEP_PART.bind(*values)]

    async def _ask(self, job: Job, part: PartToAsk) -> list[Flashcard]:
        """Return a model's cards of a part; none if there is no answer, or none of them quotes the part.

        Raises JobFailed, and the GatewayError of an ask that is to be made again.
        """
        outage = self._outages.get(job.id, Outage())
        first_s = first_token_limit_s(outage)
        if first_s is None:
            return []
        mark = draw_mark(self._rng, part.title + part.text)
        messages = card_messages(part.text, part.title, part.wanted, mark)
        question = BackgroundQuestion(job.owner, part.model, messages, first_s, WHOLE_S)
        began_s = clock.now()
        try:
            answer = await self._asker().ask(question)
        except ModelNotFound:
            raise JobFailed(
                f"There is no model {part.model[:100]!r} here any more: make another deck with one that is."
            ) from None
        except GatewayError as error:
            outage, again = after_failure(outage, error, clock.now() - began_s)
            self._remember(job.id, outage)
            if again:
                raise
            return []
        self._outages.pop(job.id, None)
        return grounded(read_cards(answer), part.text, mark)[: part.wanted]

    def _remember(self, job: str, outage: Outage) -> None:
        self._outages[job] = outage
        self._outages.move_to_end(job)
        if len(self._outages) > REMEMBERED_MAX:
            self._outages.popitem(last=False)
