"""What can go wrong with an answer: functions from script to script, so that they compose.

    healthy script -> fault -> fault -> what is played

A fault is written as an object with a `kind`: {"kind": "cut", "after_tokens": 5, "how": "reset"}. Every fault may
carry `share` (0 to 1: of the requests, drawn) and `first` (only so many requests from the moment it is set).
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from simulators.edges import EDGE_PAGES
from simulators.personas.base import Page, Persona, Turn
from simulators.script import Action, Close, Data, End, Hang, Head, Reset, Script, Wait

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Count = Annotated[int, Meta(ge=0)]
Point = Literal["head", "first_token"]

LIMIT_RETRY_AFTER_S = 20.0  # with a 429, unless the fault says otherwise
GARBAGE_JSON = b'{"id":"chatcmpl-sim","object":"chat.comp\x00\xff<<<'
GARBAGE_EVENT = b'data: {"id":"chatcmpl-sim","choices":[{"index":0,"delta":{"conte\n\n'


class BadFault(ValueError):
    """A fault that cannot be understood; the message says what would be."""


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all faults share."""

    share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    first: Count | None = None

    @property
    def kind(self) -> str:
        """Its name."""
        return str(self.__struct_config__.tag)

    @abstractmethod
    def on(self, script: Script, persona: Persona, turn: Turn) -> Script:
        """The script with this fault in it."""


class Status(Fault, frozen=True, tag="status"):
    """Another answer: a status with the persona's own body for it, or with that of an edge in front.

    A 429 says when to come back, in 20 s; `retry_after_s` sets that time for any status, null leaves it out.
    """

    status: Annotated[int, Meta(ge=200, le=999)]
    body: str | None = None
    retry_after_s: Seconds | None | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.body is not None and self.body not in EDGE_PAGES:
            raise ValueError(f"unknown body `{self.body}`; there are: {', '.join(EDGE_PAGES)}")

    def on(self, script: Script, persona: Persona, turn: Turn) -> Script:
        page = EDGE_PAGES[self.body](self.status, turn) if self.body else persona.error(self.status, turn)
        headers = dict(page.headers)
        wait_s = self.retry_after_s
        if wait_s is UNSET and self.status == 429:
            wait_s = LIMIT_RETRY_AFTER_S
        if wait_s is not UNSET:
            headers.pop("retry-after", None)
        if isinstance(wait_s, (int, float)):
            headers["retry-after"] = f"{wait_s:g}"
        return Page(page.status, headers, page.body).script()


class Stall(Fault, frozen=True, tag="stall"):
    """Nothing comes: for `s` seconds, or for ever."""

    before: Point = "head"
    s: Seconds | None = None

    def on(self, script: Script, persona: Persona, turn: Turn) -> Script:
        return insert(script, self.before, Hang() if self.s is None else Wait(self.s))


class ResetAt(Fault, frozen=True, tag="reset"):
    """The connection is reset."""

    before: Point = "head"

    def on(self, script: Script, persona: Persona, turn: Turn) -> Script:
        return insert(script, self.before, Reset())


class CloseAt(Fault, frozen=True, tag="close"):
    """The connection is closed, as if nobody were at home."""

    before: Point = "head"

    def on(self, script: Script, persona: Persona, turn: Turn) -> Script:
        return insert(script, self.before, Close())


class Cut(Fault, frozen=True, tag="cut"):
    """The answer breaks off after so many tokens; one that has no more than these stays whole.

    `how`: close, reset; error_event: the provider says so in its dialect; end_without_finish: the body ends as if
    it were whole. A JSON answer is cut at the same share of its bytes; as error_event it is a 200 with an error in it.
    """

    after_tokens: Count
    how: Literal["close", "reset", "error_event", "end_without_finish"] = "close"

    def on(self, script: Script, persona: Persona, turn: Turn) -> Script:
        left = self.after_tokens
        streamed = False
        for action in script:
            if isinstance(action, Head):
                streamed = is_stream(action)
                yield action if streamed or self.how in ("close", "reset") else unmeasured(action)
            elif isinstance(action, Data) and action.tokens > left:
                yield from self._end(action, left, streamed, persona, turn)
                return
            else:
                left -= action.tokens if isinstance(action, Data) else 0
                yield action

    def _end(self, last: Data, left: int, streamed: bool, persona: Persona, turn: Turn) -> Script:
        if self.how == "error_event":
            yield Data(persona.error_event(turn) if streamed else persona.error(500, turn).body)
        elif not streamed:
            yield Data(last.data[: len(last.data) * left // last.tokens], left)
        match self.how:
            case "close":
                yield Close()
            case "reset":
                yield Reset()
            case _:
                yield End()


class Garbage(Fault, frozen=True, tag="garbage"):
    """A 200 whose JSON, or whose first token's event, is broken. `where` says which answers: JSON ones or streams."""

    where: Literal["json", "sse"]

    def on(self, script: Script, persona: Persona, turn: Turn) -> Script:
        wanted = done = False
        for action in script:
            if isinstance(action, Head) and action.status == 200:
                wanted = is_stream(action) == (self.where == "sse")
                yield unmeasured(action) if wanted else action
            elif wanted and not done and isinstance(action, Data) and action.tokens:
                done = True
                yield Data(GARBAGE_EVENT if self.where == "sse" else GARBAGE_JSON)
            else:
                yield action


class Empty(Fault, frozen=True, tag="empty"):
    """A proper, finished answer in which nothing is said."""

    def on(self, script: Script, persona: Persona, turn: Turn) -> Script:
        streamed = False
        for action in script:
            if isinstance(action, Head):
                streamed = is_stream(action)
                yield action if streamed else unmeasured(action)
            elif not isinstance(action, Data) or not action.tokens:
                yield action
            elif not streamed:
                yield Data(persona.blank(action.data))


class Slow(Fault, frozen=True, tag="slow"):
    """Every wait of the provider takes `factor` times as long; a provider of zero latency stays as it is."""

    factor: Annotated[float, Meta(ge=0, le=10_000)]

    def on(self, script: Script, persona: Persona, turn: Turn) -> Script:
        for action in script:
            yield Wait(action.s * self.factor) if isinstance(action, Wait) else action


AnyFault = Status | Stall | ResetAt | CloseAt | Cut | Garbage | Empty | Slow
KINDS: Mapping[str, type[Fault]] = {str(f.__struct_config__.tag): f for f in get_args(AnyFault)}


def parse_fault(fault: object) -> Fault:
    """A fault from its JSON or TOML object. Raises BadFault."""
    if not isinstance(fault, dict):
        raise BadFault('a fault is an object, for example {"kind": "status", "status": 503}')
    known = KINDS.get(str(fault.get("kind")))
    if known is None:
        raise BadFault(f"unknown kind `{fault.get('kind', '')}`; there are: {', '.join(KINDS)}")
    try:
        return msgspec.convert(fault, known)
    except msgspec.ValidationError as error:
        fields = ", ".join(known.__struct_fields__)
        raise BadFault(f"{fault['kind']}: {error}. It takes: {fields}") from None


def described(fault: Fault) -> dict[str, Any]:
    """A fault as the object that `parse_fault` reads."""
    said: dict[str, Any] = msgspec.to_builtins(fault)
    return {name: value for name, value in said.items() if value is not None or name == "retry_after_s"}


def insert(script: Script, before: Point, action: Action) -> Script:
    """The script with one action more. Before the head is at once, before the first token is where it would come."""
    pending = True
    if before == "head":
        pending = False
        yield action
    for known in script:
        if pending and isinstance(known, Data) and known.tokens:
            pending = False
            yield action
        yield known


def is_stream(head: Head) -> bool:
    """Whether the answer comes as server-sent events."""
    return head.headers.get("content-type", "").startswith("text/event-stream")


def unmeasured(head: Head) -> Head:
    """The head without a length, for a body that is about to change."""
    return Head(
        head.status, {name: value for name, value in head.headers.items() if name != "content-length"}
    )
