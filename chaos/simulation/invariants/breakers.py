"""Circuit breakers, reconstructed from their events alone: which attempts they permit, and how many probes.

rule                     says
only_permitted_attempts  no attempt at an open breaker, except as the last resort at one that is open for
                         slowness
probe_limit_respected    a half-open breaker has no more probes in flight than its settings allow
last_resort_offered      no request fails while a target of its route is open for slowness alone
"""

from dataclasses import dataclass, field

from dub5.chaos.simulation.invariants.record import CURRENT_REQUEST, ObservedAttempt, RequestRecord, RunRecord
from dub5.chaos.simulation.world.model import World
from dub5.service.events import BreakerChanged, RequestEnded

# Kinds of attempt that repeat a call of the same target: its breaker may have opened since.
SAME_TARGET_KINDS = ("retry", "key", "fresh")


@dataclass
class ObservedBreaker:
    """One breaker, as its events describe it."""

    state: str = "closed"
    slow: bool = False  # whether it last opened for slowness alone
    changed_s: float = -1.0
    slow_since_s: float = 0.0
    history: list[tuple[float, str]] = field(default_factory=list)
    probes: dict[ObservedAttempt, None] = field(default_factory=dict)

    def change(self, after: str, why: str, now_s: float) -> None:
        """Record a state change."""
        slow = after == "open" and "slow" in why
        if slow and not self.slow:
            self.slow_since_s = now_s
        self.slow = slow or (self.slow and after == "half_open")
        self.state, self.changed_s = after, now_s
        self.history.append((now_s, after))
        self.probes.clear()

    def state_at(self, at_s: float) -> str:
        """Return its state at a moment."""
        return next((state for since_s, state in reversed(self.history) if since_s <= at_s), "closed")


class ObservedBreakers:
    """All breakers by scope: the name of a target, or the origin of a host."""

    def __init__(self, world: World, record: RunRecord) -> None:
        self._world = world
        self._record = record
        self._breakers: dict[str, ObservedBreaker] = {}

    def of(self, scope: str) -> ObservedBreaker:
        """Return the breaker of a scope; it is closed until an event says otherwise."""
        return self._breakers.setdefault(scope, ObservedBreaker())

    def ended(self, attempt: ObservedAttempt) -> None:
        """Free the probe slot of an attempt that has ended."""
        for breaker in self._breakers.values():
            breaker.probes.pop(attempt, None)

    def check_attempt(self, attempt: ObservedAttempt, origin: str, now_s: float) -> None:
        """Check an attempt against the breakers of its target and host."""
        for scope in (attempt.target, origin):
            breaker = self.of(scope)
            if breaker.state == "open" and self._record.ran_s(breaker.changed_s, now_s) <= 0.0:
                continue  # its permit was given earlier within this instant
            probes_max = self._world.tuning_at(now_s).breaker.probes_max
            if breaker.state == "half_open" and len(breaker.probes) < probes_max:
                breaker.probes[attempt] = None
            elif breaker.state != "closed" and breaker.slow and scope == attempt.target:
                # Of two attempts in one instant either may be the probe: permits come before the sending.
                attempt.slow_open = not any(
                    self._record.ran_s(probe.began_s, now_s) <= 0.0 for probe in breaker.probes
                )
            elif breaker.state == "half_open":
                self._record.violated(
                    "probe_limit_respected",
                    f"#{attempt.number} is a probe of {scope} beyond the limit of {probes_max}",
                )
            elif breaker.state != "closed":
                self._record.violated(
                    "only_permitted_attempts",
                    f"#{attempt.number} calls {attempt.target}, but breaker {scope} is {breaker.state}",
                )

    def on_breaker_changed(self, event: BreakerChanged, now_s: float) -> None:
        """Record and count a state change."""
        scope, after, why = event.scope, event.after, event.why
        self.of(scope).change(after, why, now_s)
        self._record.breaker_moves[after] += 1
        sometimes, host = self._record.sometimes, "host " if "://" in scope else ""
        sometimes[f"{host}breaker {event.before} -> {after}"] += 1
        if after == "open" and "slow" in why:
            sometimes["breaker open for slowness"] += 1
        if "did not come back" in why:
            sometimes["probe lost"] += 1
        if after == "closed" and CURRENT_REQUEST.get() is None:
            sometimes["breaker closed by an active probe"] += 1

    def check_last_resort(self, request: RequestRecord, event: RequestEnded) -> None:
        """Check that a target open for slowness alone is called after all others of its route, and only
        then."""
        number = request.plan.number
        if request.plan.embed:
            return  # only some of the targets have its model
        route, since_s = self._world.route(request.plan.route), request.leader_or_self.began_s
        last = {reported.target: reported for reported in event.attempts}
        for attempt in request.attempts:
            if (
                attempt.slow_open
                and attempt.reported is not None
                and attempt.reported.kind not in SAME_TARGET_KINDS
            ):
                others = {a.target for a in event.attempts if a.started_s <= attempt.reported.started_s}
                others |= {other.target for other in request.attempts if other.began_s <= attempt.began_s}
                if missing := set(route.targets) - others:
                    self._record.violated(
                        "only_permitted_attempts",
                        f"#{number} calls {attempt.target}, open for slowness, before {sorted(missing)}",
                    )
                self._record.sometimes["last resort used"] += 1
        if event.code != "all_targets_down":
            return
        for target in route.targets:
            breaker = self.of(target)
            skipped = target in last and not last[target].tried and last[target].reason == "breaker_open"
            if skipped and breaker.slow and breaker.slow_since_s < since_s:
                self._record.violated(
                    "last_resort_offered",
                    f"#{number} fails with {event.code} although {target} is open for slowness alone",
                )
