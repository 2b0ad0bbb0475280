"""The world of the free-provider week, from a seed: providers, their limits, their outages, and the requests.

    seed -> outages (off and on, minutes to days, by host) + set pieces + a small constant share -> faults
         -> arrivals, more by day than by night

Limits and kinds of failures are those published and reported of free tiers; which provider fails when is
drawn. Times are seconds from the start.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec

from dub5.service.config.settings import DialectName
from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.faults.base import Fault
from dub5.simulators.latency import PRESETS
from dub5.simulators.ledger import Ledger
from dub5.simulators.limits.rate import Limits
from dub5.simulators.personas.base import Profile
from dub5.simulators.provider import SimulatedProvider

MINUTE_S, HOUR_S, DAY_S = 60.0, 3_600.0, 86_400.0
WORDS = 30
CUT_AFTER = 26  # tokens: later than the beginning that the service holds back to check it
UP_S = 14 * HOUR_S  # between two outages, in the mean
DOWN_S, DOWN_SIGMA = (
    12 * MINUTE_S,
    1.6,
)  # median and spread: one in twenty lasts for three hours, one in a hundred for eight
BACK_S = 60.0  # tolerance: after its end a host may still be cooling down


@dataclass(frozen=True, slots=True)
class FreeProvider:
    """A free provider. `outages`: how it breaks."""

    name: str
    persona: str
    latency: str
    grants: Mapping[str, int]
    outages: tuple[str, ...]
    dialect: DialectName = "openai"

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{self.name}.test/v1"


EDGE = ("530 text", "530 json", "530 html", "1016", "524")
PROVIDERS = (  # in the order in which a route would name them: first the fast ones with high limits
    FreeProvider(
        "lpu",
        "groq",
        "lpu",
        {"requests_per_minute": 30, "requests_per_day": 14_400, "tokens_per_minute": 12_000},
        ("503", "498", "429", "refused", "silent", "cuts"),
    ),
    FreeProvider(
        "wafer",
        "openai",
        "quick",
        {"requests_per_minute": 30, "requests_per_day": 14_400},
        ("500", "429", "no name", "resets", "cuts"),
    ),
    FreeProvider(
        "mistral",
        "mistral",
        "hosted-70b",
        {"requests_per_second": 1, "tokens_per_minute": 500_000},
        ("503", "429", "silent", "slow"),
        dialect="mistral",
    ),
    FreeProvider(
        "studio",
        "openai",
        "frontier",
        {"requests_per_minute": 15, "requests_per_day": 500},
        ("503", "429", "slow"),
    ),
    FreeProvider(
        "router",
        "openrouter",
        "hosted-70b",
        {"requests_per_minute": 20, "requests_per_day": 1_000},
        ("502", "402", "error inside", "429"),
    ),
    FreeProvider(
        "tunnel", "free", "free-shared", {"requests_per_minute": 20}, (*EDGE, "502", "empty", "429")
    ),
)

FAULTS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "530 text": ({"kind": "status", "status": 530, "body": "cloudflare_1033_text"},),
    "530 json": ({"kind": "status", "status": 530, "body": "cloudflare_1033_json"},),
    "530 html": ({"kind": "status", "status": 530, "body": "cloudflare_1033_html"},),
    "1016": ({"kind": "status", "status": 530, "body": "cloudflare_1016_text"},),
    "524": ({"kind": "status", "status": 524}, {"kind": "stall", "before": "head", "s": 120.0}),
    "500": ({"kind": "status", "status": 500},),
    "502": ({"kind": "status", "status": 502},),
    "503": ({"kind": "status", "status": 503},),
    "498": ({"kind": "status", "status": 498},),
    "402": ({"kind": "status", "status": 402},),
    "429": ({"kind": "status", "status": 429, "retry_after_s": 600.0},),
    "429 for hours": ({"kind": "status", "status": 429, "retry_after_s": 4 * HOUR_S},),
    "refused": ({"kind": "unreachable", "stage": "connect", "how": "refused"},),
    "no name": ({"kind": "unreachable", "stage": "resolve", "how": "refused"},),
    "silent": ({"kind": "stall", "before": "head"},),
    "slow": ({"kind": "slow", "factor": 20.0},),
    "resets": ({"kind": "reset", "before": "head"},),
    "cuts": ({"kind": "cut", "after_tokens": CUT_AFTER, "how": "close", "share": 0.5},),
    "part sold as whole": (
        {"kind": "cut", "after_tokens": CUT_AFTER, "how": "end_without_finish", "share": 0.5},
    ),
    "error inside": ({"kind": "cut", "after_tokens": 0, "how": "error_event", "share": 0.8},),
    "empty": ({"kind": "empty", "share": 0.7},),
    "notice": ({"kind": "notice", "share": 0.7},),
}
RESTS_S = {
    "429": 600.0,
    "429 for hours": 4 * HOUR_S,
    "530 json": 120.0,
    "524": 120.0,
    "502": 60.0,
    "402": 60.0,
}
ALWAYS: tuple[
    dict[str, Any], ...
] = (  # of a healthy free tier; faults that rewrite an answer come before those that break it off
    {"kind": "empty", "share": 0.003},
    {"kind": "cut", "after_tokens": CUT_AFTER, "how": "reset", "share": 0.003},
    {"kind": "status", "status": 500, "share": 0.01},
    {"kind": "stall", "before": "head", "share": 0.003},
)


@dataclass(frozen=True, slots=True)
class Outage:
    """A provider is off for a while, by one of `FAULTS`."""

    provider: str
    kind: str
    at_s: float
    for_s: float

    @property
    def until_s(self) -> float:
        """The time at which the outage ends."""
        return self.at_s + self.for_s

    @property
    def excused_until_s(self) -> float:
        """The time at which a client that obeys the provider's Retry-After may be back."""
        return self.until_s + BACK_S + RESTS_S.get(self.kind, 0.0)

    def faults(self) -> list[Fault]:
        """Return the outage as simulator faults.

        A fault in a file may start within a day; these may within seven.
        """
        read = map(parse_fault, FAULTS[self.kind])
        return [msgspec.structs.replace(fault, at_s=self.at_s, for_s=self.for_s) for fault in read]


SET_PIECES = (  # in days from the start, and the duration
    ("tunnel", "530 text", 1.3, 20 * HOUR_S),  # off for 54 hours, reported in three ways
    ("tunnel", "530 json", 1.3 + 20 / 24, 20 * HOUR_S),
    ("tunnel", "530 html", 1.3 + 40 / 24, 14 * HOUR_S),
    ("wafer", "1016", 2.1, 14 * HOUR_S),
    ("lpu", "429 for hours", 2.4, 4 * HOUR_S),
    ("lpu", "silent", 4.0, 6 * HOUR_S),
    ("mistral", "empty", 4.1, 5 * HOUR_S),
    ("tunnel", "notice", 4.5, 30 * HOUR_S),
    ("lpu", "notice", 5.2, 3 * HOUR_S),
    ("wafer", "part sold as whole", 5.6, 3 * HOUR_S),
    ("mistral", "524", 5.65, 2 * HOUR_S),
)


@dataclass(frozen=True)
class FreeWorld:
    """The world of a week. In a shorter time the set pieces are played at the same share of it."""

    seed: int = 1
    requests: int = 100_000
    days: float = 7.0

    @property
    def end_s(self) -> float:
        """The time after which no requests are sent."""
        return self.days * DAY_S

    @cached_property
    def outages(self) -> tuple[Outage, ...]:
        """Return all outages, by their start."""
        found = [outage for free in PROVIDERS for outage in self._drawn(free)]
        scale = self.days / 7.0
        found += [
            Outage(name, kind, at * DAY_S * scale, for_s * scale) for name, kind, at, for_s in SET_PIECES
        ]
        return tuple(sorted(found, key=lambda outage: outage.at_s))

    @cached_property
    def _outages_of(self) -> Mapping[str, list[Outage]]:
        return {free.name: [o for o in self.outages if o.provider == free.name] for free in PROVIDERS}

    def _drawn(self, free: FreeProvider) -> list[Outage]:
        """Draw outages. A host that is off is off for all of its providers, until it is on again."""
        rng, at_s, found = random.Random(f"{self.seed}/outages/{free.name}"), 0.0, []
        while True:
            at_s += rng.expovariate(1 / UP_S)
            for_s = rng.lognormvariate(0.0, DOWN_SIGMA) * DOWN_S
            if at_s >= self.end_s:
                return found
            found.append(Outage(free.name, rng.choice(free.outages), at_s, for_s))
            at_s += for_s

    def arrivals_s(self) -> list[float]:
        """Draw the times of requests: at the busiest hour nearly six times as often as at the quietest."""
        rng, found = random.Random(f"{self.seed}/arrivals"), list[float]()
        while len(found) < self.requests:
            at_s = rng.uniform(0.0, self.end_s)
            if rng.random() * 1.7 < busy(at_s):
                found.append(at_s)
        return sorted(found)

    def providers(
        self, now: Callable[[], float], epoch_s: int
    ) -> tuple[dict[str, SimulatedProvider], Ledger]:
        """Return all providers by name, with all their faults, and their ledger.

        Equal seeds make equal ones.
        """
        ledger = Ledger()
        return {free.name: self._provider(free, now, epoch_s, ledger) for free in PROVIDERS}, ledger

    def _provider(
        self, free: FreeProvider, now: Callable[[], float], epoch_s: int, ledger: Ledger
    ) -> SimulatedProvider:
        pace = replace(PRESETS[free.latency], gap_s=0.0)  # what counts is when the first content comes
        made = SimulatedProvider(
            free.persona,
            Profile(free.name, pace, WORDS, edge="cloudflare"),
            rng=random.Random(f"{self.seed}/{free.name}"),
            now=now,
            ledger=ledger,
            epoch_s=epoch_s,
            limits=Limits(**free.grants),
        )
        struck = [fault for outage in self._outages_of[free.name] for fault in outage.faults()]
        struck.sort(key=lambda fault: fault.kind != "empty")
        made.set_faults([*map(parse_fault, ALWAYS), *struck])
        return made

    def able(self, name: str, at_s: float, provider: SimulatedProvider) -> bool:
        """Return whether this provider could answer now: no outage is near, and its limits are not used
        up."""
        if any(o.at_s - 2 * MINUTE_S <= at_s < o.excused_until_s for o in self._outages_of[name]):
            return False
        needed = {"requests": 2, "tokens": 200}
        return all(s.remaining >= min(needed[s.what], s.limit) for s in provider.bucket_states())


def busy(at_s: float) -> float:
    """Return the load at this time of day, 1 in the mean: most at two in the afternoon, least at two at
    night."""
    from_peak_h = abs(at_s % DAY_S / HOUR_S - 14.0)
    return 1.7 - 1.4 * min(from_peak_h, 24.0 - from_peak_h) / 12.0
