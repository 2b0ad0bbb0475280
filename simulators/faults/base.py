"""What all faults share: when they strike, and the tools to change a script with.

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
    """When a fault strikes. Times count from the moment it is set; without any of these, it always does.

    share: of the requests, drawn; first: only so many; model: only requests for it. Outages: from at_s on, for for_s,
    again every every_s; or now and then: off for up_s and on for down_s in the mean, drawn.
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
            raise ValueError("`every_s` needs a shorter `for_s`: so long it strikes, so often")
        if (self.up_s is None) != (self.down_s is None):
            raise ValueError("`up_s` and `down_s` go together")
        if self.up_s is not None and self.every_s is not None:
            raise ValueError("an outage comes every `every_s`, or drawn by `up_s` and `down_s`, not both")

    @property
    def kind(self) -> str:
        """Its name."""
        return str(self.__struct_config__.tag)

    def prepared(self, context: PersonaContext) -> PersonaContext:
        """The context as the persona shall see it: for faults that change what is said, not how."""
        return context

    @abstractmethod
    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        """The script with this fault in it."""


def described(fault: Fault) -> dict[str, Any]:
    """A fault as the object that `parse_fault` reads."""
    said: dict[str, Any] = msgspec.to_builtins(fault)
    return {name: value for name, value in said.items() if value is not None or name == "retry_after_s"}


def insert(script: Script, before: Point, action: Action) -> Script:
    """The script with one action more: at once (head), after the head (body), before the first token, before the end."""
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
    """Whether the answer comes as server-sent events."""
    return head.headers.get("content-type", "").startswith("text/event-stream")


def unmeasured(head: Head) -> Head:
    """The head without a length, for a body that is about to change."""
    return Head(
        head.status, {name: value for name, value in head.headers.items() if name != "content-length"}
    )
