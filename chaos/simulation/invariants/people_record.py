"""What was observed of people's conversations: requests for turns, conversations, other requests."""

from dataclasses import dataclass, field

import msgspec

from dub5.chaos.simulation.invariants.record import RequestRecord


@dataclass(frozen=True, slots=True)
class Prompt:
    """The messages that a provider was sent, without those of the system: (role, text)."""

    target: str
    messages: tuple[tuple[str, str], ...]


@dataclass(slots=True, eq=False)
class TurnRequest:
    """One request for a turn. What its reply says is None or empty until it has been read.

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
    memory_lost: bool = False
    pruned_turns: int = 0
    outcome: str = ""
    text: str = ""
    prompts: list[Prompt] = field(default_factory=list)
    began_s: float = 0.0
    ended_s: float | None = None
    was_there: bool = False  # the question was in the database when its process died


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
