"""What is known of a deck: its parts, and their cards."""

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

from dub5.service.jobs.model import Job
from dub5.service.study.cards import Flashcard, fold

CARDS_MAX = 200


class CardSource(StrEnum):
    """Who wrote the cards of a part."""

    MODEL = "model"
    TEMPLATE = "template"  # no model: the text itself


class DeckPart(Struct, frozen=True):
    """A part of a deck's text. `number`: from 1 on; `source`: None until its cards are made."""

    number: int
    page: int
    cards: list[Flashcard] = []
    source: CardSource | None = None


class DeckCard(Struct, frozen=True):
    """A card in its deck, as JSON."""

    number: int
    front: str
    back: str
    quote: str
    source: CardSource
    part: int


class Deck(Struct, frozen=True):
    """A deck. `job`: the one that makes its cards; None once it is forgotten. Times are epoch seconds."""

    id: str
    title: str
    document: str
    model: str
    made_at: float
    used_at: float
    parts: int
    template_parts: int = 0
    job: Job | None = None


def deck_cards(parts: Iterable[DeckPart]) -> list[DeckCard]:
    """Return the cards of a deck in order, numbered, each front once."""
    found: list[DeckCard] = []
    fronts: set[str] = set()
    for part in parts:
        for card in part.cards:
            front = fold(card.front)
            if front not in fronts and part.source is not None:
                fronts.add(front)
                number = len(found) + 1
                found.append(DeckCard(number, card.front, card.back, card.quote, part.source, part.number))
    return found
