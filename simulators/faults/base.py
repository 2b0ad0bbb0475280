"""The base of all faults: the fields that say when a fault applies, and tools to change a script.

matching requests --model, at_s/for_s/every_s or up_s/down_s--> in the window --first, share--> applied
"""

from abc import abstractmethod
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from dub5.simulators.personas.base import Persona, PersonaContext
from dub5.simulators.script import Action, Data, End, Head, Script

NonNegativeSeconds = Annotated[float, Meta(ge=0, le=86_400)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=864_000)]
NonNegativeInt = Annotated[int, Meta(ge=0)]
Point = Literal["head", "body", "first_token", "end"]


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """When a fault applies; without these fields always. Times count from the moment the fault is set.

    share: the share of requests, drawn; first: only the first n; model: only requests for this model.
    Windows: from at_s on, for for_s, repeated every every_s; or drawn: off for up_s and on for down_s in the
    mean.
    """

    share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    first: NonNegativeInt | None = None
    model: str | None = None
    at_s: NonNegativeSeconds | None = None
    for_s: PositiveSeconds | None = None
    every_s: PositiveSeconds | None = None
    up_s: PositiveSeconds | None = None
    down_s: PositiveSeconds | None = None

    def __post_init__(self) -> None:
        if self.every_s is not None and (self.for_s is None or self.for_s >= self.every_s):
            raise ValueError("`for_s` must be shorter than `every_s` (duration < period)")
        if (self.up_s is None) != (self.down_s is None):
            raise ValueError("`up_s` and `down_s` must be given together")
        if self.up_s is not None and self.every_s is not None:
            raise ValueError(
                "an outage is either periodic (`every_s`) or drawn (`up_s` and `down_s`), not both"
            )

    @property
    def kind(self) -> str:
        """The name of the kind of fault."""
        return str(self.__struct_config__.tag)

    def prepared(self, context: PersonaContext) -> PersonaContext:
        """Return the context for the persona: for faults that change what is said, not how."""
        return context

    @abstractmethod
    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        """Return the script with this fault in it."""


def described(fault: Fault) -> dict[str, Any]:
    """Return a fault as the object that `parse_fault` reads."""
    fields: dict[str, Any] = msgspec.to_builtins(fault)
    return {name: value for name, value in fields.items() if value is not None or name == "retry_after_s"}


def insert(script: Script, before: Point, action: Action) -> Script:
    """Yield the script with one more action.

    `before`: head (at once), body (after the head), first_token, end.
    """
    pending = True
    if before == "head":
        pending = False
        yield action
    for known in script:
        if pending and _is_at(before, known):
            pending = False
            yield action
        yield known


def _is_at(before: Point, action: Action) -> bool:
    match before:
        case "body":
            return isinstance(action, Data)
        case "first_token":
            return isinstance(action, Data) and action.tokens > 0
        case _:
            return isinstance(action, End)


def is_stream(head: Head) -> bool:
    """Return whether the answer is a stream of server-sent events."""
    return head.headers.get("content-type", "").startswith("text/event-stream")


def unmeasured(head: Head) -> Head:
    """Return the head without `content-length`, for a body that is about to change."""
    return Head(
        head.status, {name: value for name, value in head.headers.items() if name != "content-length"}
    )
