"""The record of a run: what was planned, what was done and when, how every request ended. Times are seconds from the
start of the load. It is what the verdict and the report are made from, and is kept as JSON beside the report."""

from typing import Any

import msgspec

from dub5.chaos.run.judge import HONEST, ClientOutcome
from dub5.chaos.scenario.model import Scenario


class RequestResult(msgspec.Struct, frozen=True):
    """One request as its client saw it; durations from its intended start."""

    number: int
    at_s: float  # intended start
    late_s: float  # how much later it really started: the harness' own delay
    stream: bool
    outcome: ClientOutcome
    reason: str
    provider: str  # who answered; empty if nobody did
    first_token_s: float | None  # of a stream
    total_s: float
    tag: str = ""  # stands for the prompt, here as in the providers' ledgers
    id: str = ""  # the service's own
    trail: str = ""  # the service's own account of its tries
    route: str = ""

    @property
    def ended_s(self) -> float:
        return self.at_s + self.total_s

    @property
    def honest(self) -> bool:
        return self.outcome in HONEST


class AppliedFault(msgspec.Struct):
    """A fault as it was really applied. `by`: who carried it out."""

    provider: str
    kind: str
    label: str
    by: str
    cuts: bool
    from_s: float
    until_s: float | None = None  # None: still on when the run ended

    def covers(self, from_s: float, until_s: float) -> bool:
        """Whether it was on at any moment between the two."""
        return self.from_s <= until_s and (self.until_s is None or self.until_s >= from_s)


class StatusSample(msgspec.Struct, frozen=True):
    """What the service said of one target at one moment."""

    at_s: float
    provider: str
    health: str
    breaker: str
    cooling_s: float
    target: str = ""


class LedgerEntry(msgspec.Struct, frozen=True):
    """One line of a provider's ledger: the provider's own account of one attempt."""

    provider: str
    tag: str
    faults: tuple[str, ...]


class Journal(msgspec.Struct):
    """The whole run."""

    scenario: Scenario
    engine: str
    seed: int
    machine: str
    started: str  # date and time, UTC, for people
    seconds: float = 0.0  # how long the load really lasted
    planned: int = 0
    requests: list[RequestResult] = msgspec.field(default_factory=list)
    windows: list[AppliedFault] = msgspec.field(default_factory=list)
    samples: list[StatusSample] = msgspec.field(default_factory=list)
    ledger: list[LedgerEntry] = msgspec.field(default_factory=list)
    happened: dict[str, int] = msgspec.field(default_factory=dict)
    told_by: str = ""  # who counted `happened`: the service, or the harness where the service says nothing
    notes: list[str] = msgspec.field(default_factory=list)

    def planned_cut(self, result: RequestResult) -> bool:
        """Whether a cut was the doing of a fault of the scenario: one that cuts was on at that provider meanwhile."""
        return result.outcome is ClientOutcome.CUT and any(
            window.cuts and window.provider == result.provider and window.covers(result.at_s, result.ended_s)
            for window in self.windows
        )

    def well(self, result: RequestResult) -> bool:
        """Whether its client noticed nothing: a whole answer, with its first words as soon as ever."""
        first_s = result.first_token_s if result.first_token_s is not None else result.total_s
        return result.outcome is ClientOutcome.COMPLETE and first_s <= self.scenario.expect.usual_s

    def json(self) -> bytes:
        """For the file."""
        return msgspec.json.format(msgspec.json.encode(self, enc_hook=_plain), indent=1)


def _plain(value: Any) -> Any:
    raise NotImplementedError(f"a journal holds plain values, not {type(value).__name__}")
