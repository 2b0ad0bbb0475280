"""Faults of answers: functions from script to script, so that they compose.

    healthy script -> fault -> fault -> script that is played

A fault is written as an object with a `kind`: {"kind": "cut", "after_tokens": 5, "how": "reset"}, or in short
as "cut:5:reset": the kind and its own fields in their order. The fields that say when a fault applies are in
base.py. Call `parse_fault` for either form.
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
    "\u26a0\ufe0f **IMPORTANT NOTICE** \u26a0\ufe0f\n\n"
    "The legacy text API is being deprecated for **authenticated users**. Please migrate to our new service."
)
GARBAGE_JSON = b'{"id":"chatcmpl-sim","object":"chat.comp\x00\xff<<<'
GARBAGE_EVENT = b'data: {"id":"chatcmpl-sim","choices":[{"index":0,"delta":{"conte\n\n'


class BadFault(ValueError):
    """A fault that cannot be read or played; the message says what is valid."""


class Status(Fault, frozen=True, tag="status"):
    """Another status, with the persona's own body for it, or the body of the edge in front of the provider.

    A 429 has `retry-after: 20`; `retry_after_s` sets the header for any status, null leaves it out.
    """

    status: Annotated[int, Meta(ge=200, le=999)]
    body: str | None = None
    retry_after_s: NonNegativeSeconds | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.body is not None and self.body not in EDGE_PAGES:
            raise ValueError(f"unknown body `{self.body}`; valid bodies: {', '.join(EDGE_PAGES)}")

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
    """A stall of `s` seconds, or for ever. `before` "end": the stream stays open after its last event."""

    before: Point = "head"
    s: NonNegativeSeconds | None = None

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        return insert(script, self.before, Hang() if self.s is None else Wait(self.s))


class ResetAt(Fault, frozen=True, tag="reset"):
    """A reset of the connection (TCP RST)."""

    before: Point = "head"

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        return insert(script, self.before, Reset())


class CloseAt(Fault, frozen=True, tag="close"):
    """A close of the connection (TCP FIN)."""

    before: Point = "head"

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        return insert(script, self.before, Close())


class Cut(Fault, frozen=True, tag="cut"):
    """A cut of the answer after `after_tokens`; an answer that is not longer stays whole.

    `how`: close, reset; error_event: the provider sends an error in its dialect; end_without_finish: the body
    ends as if it were whole. A JSON answer is cut at the same share of its bytes; as error_event it is a 200
    with an error.
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
    """A 200 with broken JSON, or with a broken event of the first token.

    `where`: which answers are broken, JSON answers or streams.
    """

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
    """A proper, finished answer without content."""

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
        return action  # another fault has changed the body before


class Slow(Fault, frozen=True, tag="slow"):
    """A slowdown: every wait takes `factor` times as long. A provider of zero latency stays as it is."""

    factor: Annotated[float, Meta(ge=0, le=10_000)]

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        for action in script:
            yield Wait(action.s * self.factor) if isinstance(action, Wait) else action


class Notice(Fault, frozen=True, tag="notice"):
    """A proper 200 whose text is an announcement of the provider, and no answer to the prompt."""

    text: str = DEPRECATED

    def prepared(self, context: PersonaContext) -> PersonaContext:
        return dataclasses.replace(context, profile=dataclasses.replace(context.profile, saying=self.text))

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        return script


class Sequence(Fault, frozen=True, tag="sequence"):
    """An exact list of faults for the 1st, 2nd, ... POST from the moment it is set.

    steps: faults as objects or in short, "ok" for none. After the last step the provider is healthy; with
    `loop` the steps begin again. A step "unreachable:..." waits for the next new connection; until then POSTs
    are answered.
    """

    steps: Annotated[list[str | dict[str, Any]], Meta(min_length=1, max_length=100_000)]
    loop: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for spec in self.steps:
            try:
                step = _step(spec)
            except BadFault as error:
                raise ValueError(f"step {spec!r}: {error}") from None
            if step is not None and step.kind == "sequence":
                raise ValueError("a step cannot be a sequence")
            if isinstance(step, Unreachable) and (step.closes_open or self.model is not None):
                raise ValueError("a step `unreachable` allows neither `closes_open` nor `model`")

    def step(self, n: int) -> Fault | None:
        """Return the fault of the nth request (from 1), or None."""
        if n > len(self.steps) and not self.loop:
            return None
        return _step(self.steps[(n - 1) % len(self.steps)])

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        return script  # ActiveFault applies the steps, one for each request


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
    """Parse a fault from its JSON or TOML object, or from its short form with a colon. Raises BadFault."""
    spec = _spelled_out(fault) if isinstance(fault, str) and ":" in fault else fault
    if not isinstance(spec, dict):
        raise BadFault('a fault is an object, for example {"kind": "status", "status": 503}')
    known = KINDS.get(str(spec.get("kind")))
    if known is None:
        raise BadFault(f"unknown kind `{spec.get('kind', '')}`; valid kinds: {', '.join(KINDS)}")
    try:
        return msgspec.convert(spec, known, strict=spec is fault)
    except msgspec.ValidationError as error:
        fields = ", ".join(known.__struct_fields__)
        raise BadFault(f"{spec['kind']}: {error}. Valid fields: {fields}") from None


def _step(spec: str | dict[str, Any]) -> Fault | None:
    if spec == "ok":
        return None
    return parse_fault(spec if isinstance(spec, dict) or ":" in spec else f"{spec}:")


def _spelled_out(text: str) -> dict[str, Any]:
    """Return the object of a short form such as "cut:5:reset"; an empty value keeps its default."""
    kind, *values = text.split(":")
    if kind not in KINDS:
        return {"kind": kind}
    own = [name for name in KINDS[kind].__struct_fields__ if name not in Fault.__struct_fields__]
    if any(values[len(own) :]):
        raise BadFault(f"`{text}` has too many values; fields of {kind}: {', '.join(own) or 'none'}")
    return {"kind": kind, **{name: value for name, value in zip(own, values, strict=False) if value}}
