"""What was observed of people's conversations: requests for turns, conversations, other requests."""

from dataclasses import dataclass, field

import msgspec

from dub5.chaos.run.judge import Ending
from dub5.chaos.simulation.invariants.audience import Audience
from dub5.chaos.simulation.invariants.record import RequestRecord


@dataclass(frozen=True, slots=True)
class Prompt:
    """The messages that a provider was sent, without those of the system: (role, text)."""

    target: str
    messages: tuple[tuple[str, str], ...]


@dataclass(slots=True, eq=False)
class TurnRequest:
    """One request for a turn. What its reply says is None or empty until it has been read.

    `has_begun`: it has said which target answers, and what was left out.
    `owner`: of the person who asks, which is another one than the conversation's if it is a stranger.
    """

    request: RequestRecord
    life: int
    owner: str
    conversation: str
    asked_as: str
    question: str
    turn: str = ""
    accepted_kept: bool | None = None
    ended_kept: bool | None = None
    has_begun: bool = False
    memory_lost: bool = False
    pruned_turns: int = 0
    outcome: str = ""
    text: str = ""
    prompts: list[Prompt] = field(default_factory=list)
    began_s: float = 0.0
    ended_s: float | None = None
    was_there: bool = False  # the question was in the database when its process died


@dataclass(slots=True, eq=False)
class TurnReading:
    """One connection that reads a turn on, which was asked before. `by`: "resume" or "events".

    `text`: all that its client has read of the turn, with what it knew before; `start`: where it began, in
    bytes, None if it has read nothing. `was_missed`: nobody listened when it came, in time. `own`: the reader
    is its owner. `code`: of an error.
    """

    asked: TurnRequest
    life: int
    by: str
    own: bool
    began_s: float
    before: str = ""
    start: int | None = None
    text: str = ""
    outcome: str = ""
    code: str = ""
    ended_kept: bool | None = None
    was_missed: bool = False
    ending: Ending | None = None
    ended_s: float | None = None


@dataclass(slots=True, eq=False)
class ConversationRecord:
    """One conversation. `deleted`: its owner has asked for that, whatever became of it."""

    id: str
    owner: str
    kept: bool
    life: int
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class OtherRequest:
    """Any other request about conversations. `own`: it is about one of its own; `code`: of an error."""

    what: str
    life: int
    began_s: float
    ended_s: float
    status: int
    code: str
    own: bool
    kept: bool = False  # the conversation was told to be kept


class PeopleRecord:
    """All of it."""

    def __init__(self) -> None:
        self.turns: list[TurnRequest] = []
        self.by_number: dict[int, TurnRequest] = {}
        self.conversations: dict[str, ConversationRecord] = {}
        self.others: list[OtherRequest] = []
        self.readings: list[TurnReading] = []
        self._audiences: dict[tuple[int, str, str], Audience] = {}

    def conversation(self, turn: TurnRequest) -> ConversationRecord:
        """Return the conversation of a turn, or one of which nothing is known: it may never have begun."""
        unknown = ConversationRecord(turn.conversation, turn.owner, kept=False, life=-1, deleted=True)
        return self.conversations.get(turn.conversation, unknown)

    def audience(self, life: int, owner: str, asked_as: str, linger_s: float) -> Audience:
        """Return the listeners of a question's turn in one process."""
        return self._audiences.setdefault((life, owner, asked_as), Audience(linger_s))

    def add(self, turn: TurnRequest) -> None:
        """Add a request for a turn that is being sent."""
        self.turns.append(turn)
        self.by_number[turn.request.plan.number] = turn

    def note_prompt(self, number: int | None, target: str, body: bytes) -> None:
        """Note what a provider is sent for a turn; other requests are ignored."""
        turn = self.by_number.get(number) if number is not None else None
        if turn is not None:
            said = [(m.role, text_of(m.content)) for m in _BODY.decode(body).messages if m.role != "system"]
            turn.prompts.append(Prompt(target, tuple(said)))


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, object]] | None = None


class _Body(msgspec.Struct):
    messages: list[_Message]


_BODY = msgspec.json.Decoder(_Body)


def text_of(content: str | list[dict[str, object]] | None) -> str:
    """Return the text of a message in any dialect."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return content or ""
