"""What is known of a document."""

from enum import StrEnum

from msgspec import Struct

PAGE_BREAK = "\f"  # between the pages of a text


class DocumentKind(StrEnum):
    """The formats that are read."""

    TEXT = "txt"
    MARKDOWN = "md"
    WORD = "docx"
    PDF = "pdf"


class Document(Struct, frozen=True):
    """A document without its text. `size`: bytes of the file. `flags`: of a prompt injection in its text.

    `name` is what its owner calls it: for showing only. Times are epoch seconds.
    """

    id: str
    name: str
    kind: DocumentKind
    size: int
    pages: int
    tokens: int
    flags: tuple[str, ...]
    made_at: float
    used_at: float
