"""What a try is given: the request on its way (Task), where it may go (Upstream), and with what (Means)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from dub5.service.config.options import Clocks
from dub5.service.events import Events
from dub5.service.failover.hedging import Hedges
from dub5.service.failover.rejected_content import Notices
from dub5.service.model import Asked, Attempt, Price, Reply, Target
from dub5.service.providers.base import Dialect
from dub5.service.providers.features import Feature, fits, needed
from dub5.service.resilience.classify import Verdict
from dub5.service.timeouts import Watch
from dub5.service.wire.base import Wire


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a target is, how it speaks, and what it costs."""

    dialect: Dialect
    base_url: str
    price: Price | None = None
    lacks: Mapping[Feature, str] = field(default_factory=dict)
    context_tokens: int | None = None

    def carries(self, request: Asked) -> bool:
        """Whether this target has all that the request needs, as far as that can be told without asking it."""
        if self.context_tokens is not None and not fits(request, self.context_tokens):
            return False
        return not self.lacks or not needed(request) & self.lacks.keys()


@dataclass(slots=True)
class Task:
    """One request on its way: who asks what, until when, and the trail so far. Times are loop seconds."""

    request: Asked
    route: str
    clocks: Clocks
    notices: Notices
    watch: Watch
    started_s: float
    whole: bool = False  # a stream is held to its end, so that it can fail over until then
    trail: list[Attempt] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)  # on those that were tried
    given_up: bool = False  # nobody else would do better
    stand_in: bool = False  # there is something to say at once where nobody but a probe could answer
    upstream_ns: int = 0  # spent on providers before the commit point
    shared: bool = False  # its tries are counted with another request, which shares its answer


class Whole(Struct, frozen=True):
    """A JSON answer, all of it."""

    target: Target
    reply: Reply


@dataclass(frozen=True, slots=True)
class Means:
    """What every try needs."""

    wire: Wire
    upstreams: dict[Target, Upstream]
    events: Events
    answer_bytes_max: int
    hedges: Hedges
    asked_for: dict[Target, str] = field(default_factory=dict)  # the operation that each was last asked for
