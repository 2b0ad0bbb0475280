"""What can go wrong with an answer: functions from script to script, so that they compose.

    healthy script -> fault -> fault -> what is played

A fault is written as an object with a `kind`: {"kind": "cut", "after_tokens": 5, "how": "reset"}, or in short as
"cut:5:reset": the kind and its own fields in their order. What says when it applies is in base.py.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dub5.simulators.faults.base import (
    Fault,
    NonNegativeInt,
    NonNegativeSeconds,
    Point,
    insert,
    is_stream,
    unmeasured,
)
from dub5.simulators.faults.connections import Unreachable
from dub5.simulators.faults.malformed import Broken
from dub5.simulators.personas.base import FixedResponse, Persona, PersonaContext
from dub5.simulators.personas.edges import EDGE_PAGES, EDGES
from dub5.simulators.script import Close, Data, End, Hang, Head, Reset, Script, Wait

LIMIT_RETRY_AFTER_S = 20.0  # with a 429, unless the fault says otherwise
DEPRECATED = (
    "\u26a0\ufe0f **IMPORTANT NOTICE** \u26a0\ufe0f\n\nThe legacy text API is being deprecated for **authenticated users**. "
    "Please migrate to our new service."
)
GARBAGE_JSON = b'{"id":"chatcmpl-sim","object":"chat.comp\x00\xff<<<'
GARBAGE_EVENT = b'data: {"id":"chatcmpl-sim","choices":[{"index":0,"delta":{"conte\n\n'


class BadFault(ValueError):
    """A fault that cannot be understood; the message says what would be."""


class Status(Fault, frozen=True, tag="status"):
    """Another answer: a status with the persona's own body for it, or with that of the edge that stands in front.

    A 429 says when to come back, in 20 s; `retry_after_s` sets that time for any status, null leaves it out.
    """

    status: Annotated[int, Meta(ge=200, le=999)]
    body: str | None = None
    retry_after_s: NonNegativeSeconds | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.body is not None and self.body not in EDGE_PAGES:
            raise ValueError(f"unknown body `{self.body}`; there are: {', '.join(EDGE_PAGES)}")

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        response = self._response(persona, context)
        headers = dict(response.headers)
        wait_s = self.retry_after_s
        if wait_s is UNSET and self.status == 429:
            wait_s = LIMIT_RETRY_AFTER_S
        if wait_s is not UNSET:
            headers.pop("retry-after", None)
        if isinstance(wait_s, (int, float)):
            headers["retry-after"] = f"{wait_s:g}"
        return FixedResponse(response.status, headers, response.body).script()

    def _response(self, persona: Persona, context: PersonaContext) -> FixedResponse:
        if self.body is not None:
            return EDGE_PAGES[self.body](self.status, context)
        edge = EDGES[context.profile.edge or persona.edge]
        return (
            edge.page(self.status, context)
            if self.status in edge.statuses
            else persona.error(self.status, context)
        )


class Stall(Fault, frozen=True, tag="stall"):
    """Nothing comes: for `s` seconds, or for ever. Before the end is a stream that lingers after its last event."""

    before: Point = "head"
    s: NonNegativeSeconds | None = None

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        return insert(script, self.before, Hang() if self.s is None else Wait(self.s))


class ResetAt(Fault, frozen=True, tag="reset"):
    """The connection is reset."""

    before: Point = "head"

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        return insert(script, self.before, Reset())


class CloseAt(Fault, frozen=True, tag="close"):
    """The connection is closed, as if nobody were at home."""

    before: Point = "head"

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        return insert(script, self.before, Close())


class Cut(Fault, frozen=True, tag="cut"):
    """The answer breaks off after so many tokens; one that has no more than these stays whole.

    `how`: close, reset; error_event: the provider says so in its dialect; end_without_finish: the body ends as if
    it were whole. A JSON answer is cut at the same share of its bytes; as error_event it is a 200 with an error in it.
    """

    after_tokens: NonNegativeInt
    how: Literal["close", "reset", "error_event", "end_without_finish"] = "close"

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        left = self.after_tokens
        streamed = False
        for action in script:
            if isinstance(action, Head):
                streamed = is_stream(action)
                yield action if streamed or self.how in ("close", "reset") else unmeasured(action)
            elif isinstance(action, Data) and action.tokens > left:
                yield from self._end(action, left, streamed, persona, context)
                return
            else:
                left -= action.tokens if isinstance(action, Data) else 0
                yield action

    def _end(
        self, last: Data, left: int, streamed: bool, persona: Persona, context: PersonaContext
    ) -> Script:
        if self.how == "error_event":
            yield Data(persona.error_event(context) if streamed else persona.error(500, context).body)
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

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
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

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        streamed = False
        for action in script:
            if isinstance(action, Head):
                streamed = is_stream(action)
                yield action if streamed else unmeasured(action)
            elif not isinstance(action, Data) or not action.tokens:
                yield action
            elif not streamed:
                yield _blanked(action, persona)


def _blanked(action: Data, persona: Persona) -> Data:
    try:
        return Data(persona.blank(action.data))
    except msgspec.DecodeError:
        return action  # another fault has had it before


class Slow(Fault, frozen=True, tag="slow"):
    """Every wait of the provider takes `factor` times as long; a provider of zero latency stays as it is."""

    factor: Annotated[float, Meta(ge=0, le=10_000)]

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        for action in script:
            yield Wait(action.s * self.factor) if isinstance(action, Wait) else action


class Notice(Fault, frozen=True, tag="notice"):
    """A proper 200 whose words are no answer but an announcement: sold as an answer, it says nothing of the kind."""

    text: str = DEPRECATED

    def prepared(self, context: PersonaContext) -> PersonaContext:
        return dataclasses.replace(context, profile=dataclasses.replace(context.profile, saying=self.text))

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        return script


class Sequence(Fault, frozen=True, tag="sequence"):
    """An exact list: what happens to the 1st, 2nd, ... POST from the moment it is set.

    steps: faults as objects or in short, and "ok" for none. After the last all is well, or, with `loop`, from the top.
    A step "unreachable:..." is for the next new connection; POSTs on open ones are well until then.
    """

    steps: Annotated[list[str | dict[str, Any]], Meta(min_length=1, max_length=100_000)]
    loop: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for said in self.steps:
            try:
                step = _step(said)
            except BadFault as error:
                raise ValueError(f"step {said!r}: {error}") from None
            if step is not None and step.kind == "sequence":
                raise ValueError("a step cannot be a sequence")
            if isinstance(step, Unreachable) and (step.closes_open or self.model is not None):
                raise ValueError("a step that is unreachable goes with neither `closes_open` nor `model`")

    def step(self, n: int) -> Fault | None:
        """The fault of the nth request, from 1."""
        if n > len(self.steps) and not self.loop:
            return None
        return _step(self.steps[(n - 1) % len(self.steps)])

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        return script  # its steps act, one at a time


AnyFault = (
    Status
    | Stall
    | ResetAt
    | CloseAt
    | Cut
    | Garbage
    | Empty
    | Slow
    | Broken
    | Notice
    | Unreachable
    | Sequence
)
KINDS: Mapping[str, type[Fault]] = {str(f.__struct_config__.tag): f for f in get_args(AnyFault)}


def parse_fault(fault: object) -> Fault:
    """A fault from its JSON or TOML object, or from its short form with a colon. Raises BadFault."""
    said = _spelled_out(fault) if isinstance(fault, str) and ":" in fault else fault
    if not isinstance(said, dict):
        raise BadFault('a fault is an object, for example {"kind": "status", "status": 503}')
    known = KINDS.get(str(said.get("kind")))
    if known is None:
        raise BadFault(f"unknown kind `{said.get('kind', '')}`; there are: {', '.join(KINDS)}")
    try:
        return msgspec.convert(said, known, strict=said is fault)
    except msgspec.ValidationError as error:
        fields = ", ".join(known.__struct_fields__)
        raise BadFault(f"{said['kind']}: {error}. It takes: {fields}") from None


def _step(said: str | dict[str, Any]) -> Fault | None:
    if said == "ok":
        return None
    return parse_fault(said if isinstance(said, dict) or ":" in said else f"{said}:")


def _spelled_out(text: str) -> dict[str, Any]:
    """ "cut:5:reset" as an object; a value left empty keeps its default."""
    kind, *values = text.split(":")
    if kind not in KINDS:
        return {"kind": kind}
    own = [name for name in KINDS[kind].__struct_fields__ if name not in Fault.__struct_fields__]
    if any(values[len(own) :]):
        raise BadFault(f"`{text}` has too many values; {kind} takes: {', '.join(own) or 'none'}")
    return {"kind": kind, **{name: value for name, value in zip(own, values, strict=False) if value}}
