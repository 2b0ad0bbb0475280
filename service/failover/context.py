"""The context of a request on its way through failover, and what its attempts need.

RequestContext   what is asked, until when, and the progress so far; travels with the request
Upstream         one target: address, dialect, price, capabilities
Dependencies     what all attempts share: wire, fleet, upstreams, events, hedges, retries
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import msgspec
from msgspec import Struct

from dub5.service.config.options import RetryOptions, TimeoutOptions
from dub5.service.events import Events
from dub5.service.failover.hedging import Hedges
from dub5.service.failover.rejected_content import RejectPatterns
from dub5.service.model import AnyRequest, AttemptRecord, Price, Reply, Target
from dub5.service.providers.base import Dialect
from dub5.service.providers.features import Feature, fits, required_features
from dub5.service.resilience.classify import Classification
from dub5.service.resilience.fleet import Fleet
from dub5.service.resilience.permit import Permit
from dub5.service.resilience.spending import SpendingBook
from dub5.service.timeouts import Timeouts
from dub5.service.wire.base import Wire


@dataclass(frozen=True, slots=True)
class Upstream:
    """A target's address, dialect, price and capabilities."""

    dialect: Dialect
    base_url: str
    price: Price | None = None
    missing_features: Mapping[Feature, str] = field(default_factory=dict)
    context_tokens: int | None = None

    def supports(self, request: AnyRequest) -> bool:
        """Return whether the target supports what the request needs, as far as is known without a call."""
        if self.context_tokens is not None and not fits(request, self.context_tokens):
            return False
        return not self.missing_features or not required_features(request) & self.missing_features.keys()


class Progress(Struct):
    """What has come of a request so far.

    Written where its attempts are made: failover, and the queue before it.
    """

    trail: list[AttemptRecord] = []
    classifications: list[Classification] = []  # of failed attempts
    given_up: bool = False  # no other target would do better
    refusals: tuple[tuple[Target, Permit], ...] = ()  # of the request itself, until another target takes it
    answered: bool = False
    upstream_ns: int = 0  # spent on providers before the commit point


class RequestContext(Struct):
    """One request on its way: what is asked, until when, and the progress so far. Times are loop seconds.

    `Gateway.new_context` sets what the request may have, once; `shared` is written by single_flight.
    """

    request: AnyRequest
    route: str
    timeout_options: TimeoutOptions
    reject_patterns: RejectPatterns
    timeouts: Timeouts
    started_s: float
    deliver_whole: bool = False  # a stream is held to its end, so that it can fail over until then
    # An answer can be given at once where only a probe could bring one; None: not looked at yet.
    has_fallback: bool | None = False
    targets: Sequence[Target] = ()  # of its route, in the order in which they are tried
    progress: Progress = msgspec.field(default_factory=Progress)
    shared: bool = False  # its attempts are counted with another request, which shares its answer
    latency_class: int = 0  # of the request, as hedging.py numbers them


class BufferedAnswer(Struct, frozen=True):
    """A whole JSON answer."""

    target: Target
    reply: Reply


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What failover needs."""

    wire: Wire
    fleet: Fleet
    upstreams: dict[Target, Upstream]
    events: Events
    answer_bytes_max: int
    hedges: Hedges
    retry: RetryOptions
    rng: Random  # of the pauses before a retry
    last_operations: dict[Target, str] = field(default_factory=dict)  # what each was last asked for
    plain_targets: set[Target] = field(default_factory=set)  # these refuse a field of our own
    quota_headers: bool = True  # a key rests before its provider refuses it
    spending: SpendingBook | None = None  # None: no model has a price
