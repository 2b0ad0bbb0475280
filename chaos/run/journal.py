"""The journal of a run: what was planned, what was done and when, and how every request ended.

Verdict and report are made from it, and it is saved as JSON next to the report. Times are seconds since the
start of the load.
"""

from typing import Any

import msgspec

from dub5.chaos.run.judge import HONEST, ClientOutcome
from dub5.chaos.scenario.model import Scenario


class RequestResult(msgspec.Struct, frozen=True):
    """One request as its client saw it. Durations count from its planned start."""

    number: int
    at_s: float  # planned start
    late_s: float  # how much later it started: a delay of the harness
    stream: bool
    outcome: ClientOutcome
    reason: str
    provider: str  # that answered; empty if none did
    first_token_s: float | None  # of a stream
    total_s: float
    tag: str = ""  # identifies the prompt, as in the providers' ledgers
    id: str = ""  # the service's request id
    trail: str = ""  # the service's attempts trail
    route: str = ""

    @property
    def ended_s(self) -> float:
        return self.at_s + self.total_s

    @property
    def honest(self) -> bool:
        return self.outcome in HONEST


class AppliedFault(msgspec.Struct):
    """A fault as it was applied. `by`: what applied it."""

    provider: str
    kind: str
    label: str
    by: str
    cuts: bool
    from_s: float
    until_s: float | None = None  # None: still on when the run ended

    def covers(self, from_s: float, until_s: float) -> bool:
        """Say whether it was active at any moment between the two."""
        return self.from_s <= until_s and (self.until_s is None or self.until_s >= from_s)


class StatusSample(msgspec.Struct, frozen=True):
    """What the service's status said of one target at one moment."""

    at_s: float
    provider: str
    health: str
    breaker: str
    cooling_s: float
    target: str = ""


class LedgerEntry(msgspec.Struct, frozen=True):
    """One attempt, as the provider's own ledger has it."""

    provider: str
    tag: str
    faults: tuple[str, ...]


class Journal(msgspec.Struct):
    """The whole run."""

    scenario: Scenario
    engine: str
    seed: int
    machine: str
    started: str  # date and time, UTC
    seconds: float = 0.0  # how long the load lasted
    planned: int = 0
    requests: list[RequestResult] = msgspec.field(default_factory=list)
    windows: list[AppliedFault] = msgspec.field(default_factory=list)
    samples: list[StatusSample] = msgspec.field(default_factory=list)
    ledger: list[LedgerEntry] = msgspec.field(default_factory=list)
    happened: dict[str, int] = msgspec.field(default_factory=dict)
    counted_by: str = ""  # what counted `happened`: the service, or the harness if there is no /status
    notes: list[str] = msgspec.field(default_factory=list)

    def planned_cut(self, result: RequestResult) -> bool:
        """Say whether a cut was planned: a fault that cuts was active at that provider meanwhile."""
        return result.outcome is ClientOutcome.CUT and any(
            window.cuts and window.provider == result.provider and window.covers(result.at_s, result.ended_s)
            for window in self.windows
        )

    def unaffected(self, result: RequestResult) -> bool:
        """Say whether its user noticed no fault: a complete answer whose first content came as fast as
        usual."""
        first_s = result.first_token_s if result.first_token_s is not None else result.total_s
        return result.outcome is ClientOutcome.COMPLETE and first_s <= self.scenario.expect.usual_s

    def json(self) -> bytes:
        """Return the journal as JSON."""
        return msgspec.json.format(msgspec.json.encode(self, enc_hook=_plain), indent=1)


def _plain(value: Any) -> Any:
    raise NotImplementedError(f"a journal holds plain values, not {type(value).__name__}")
