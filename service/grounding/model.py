"""What is known of a grounded answer: passages of a document, and what became of its statements."""

from msgspec import Struct


class DocumentPassage(Struct, frozen=True):
    """One entry of a document, as it is cited. `headings`: what stands above it, the topmost first.

    `lead`: the sentence before, where the entry needs it ("There she led ..."). `page`: from 1 on.
    `is_heading`: an entry's own heading, as that of an employer. `usable`: no part of it gives instructions
    to a model, so it may support a statement.
    """

    number: int
    text: str
    headings: tuple[str, ...] = ()
    lead: str = ""
    page: int = 1
    is_heading: bool = False
    usable: bool = True

    @property
    def path(self) -> str:
        """The headings in one line."""
        return " > ".join(self.headings)


class GroundingSource(Struct, frozen=True):
    """A passage that a told statement cites."""

    number: int
    text: str
    page: int


class GroundingReport(Struct, frozen=True):
    """What became of an answer. `grounded`: it tells something, all of which its sources support.

    `withheld`: how many statements were left out, since no passage that they cite supports them.
    """

    grounded: bool = False
    sources: tuple[GroundingSource, ...] = ()
    withheld: int = 0
