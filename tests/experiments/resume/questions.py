"""The questions of the experiment, and the statements that readers and liars make of them."""

import tomllib
from pathlib import Path

import msgspec
from msgspec import Struct

FOLDER = Path(__file__).parent
DOCUMENTS = FOLDER / "documents"
QUESTIONS = FOLDER / "questions.toml"
HELD_OUT = FOLDER / "held_out.toml"
REVIEWED = FOLDER / "reviewed.toml"
Quoted = tuple[str, str]  # a statement, and words of the passage that it cites


class ResumeQuestion(Struct, frozen=True, forbid_unknown_fields=True):
    """A question. `told`: its document tells it; `facts`: what an answer then holds."""

    document: str
    question: str
    told: bool
    facts: tuple[str, ...] = ()
    answer: tuple[Quoted, ...] = ()
    lies: tuple[Quoted, ...] = ()


class ReviewStatement(Struct, frozen=True, forbid_unknown_fields=True):
    """A statement of a reviewer who wants to trick the check. `cites`: words of passages that it cites."""

    document: str
    text: str
    cites: tuple[str, ...]
    true: bool
    question: str = "Tell me about this person."
    kind: str = ""


def questions() -> tuple[ResumeQuestion, ...]:
    """Return the questions."""
    tables = tomllib.loads(QUESTIONS.read_text(encoding="utf-8"))["question"]
    return msgspec.convert(tables, tuple[ResumeQuestion, ...])


def statements(path: Path) -> tuple[ReviewStatement, ...]:
    """Return the statements of a file: HELD_OUT, or REVIEWED, which the check was corrected with."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))["statement"]
    return msgspec.convert(tables, tuple[ReviewStatement, ...])


def document(name: str) -> str:
    """Return the text of a document."""
    return (DOCUMENTS / name).read_text(encoding="utf-8")
