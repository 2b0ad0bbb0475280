"""The fleet under any order of tries and endings: places are counted, waits are kept, and nobody is lost for
good."""

from dataclasses import dataclass
from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dub5.service.config.options import BreakerOptions, BudgetOptions, HealthOptions, LimiterOptions
from dub5.service.config.settings import Secret
from dub5.service.events import BreakerChanged, Event, Events, HealthChanged
from dub5.service.model import Target
from dub5.service.resilience.classify import Blame, Classification, CooldownReason, Then
from dub5.service.resilience.fleet import Fleet, GuardOptions
from dub5.service.resilience.health import TargetSnapshot
from dub5.service.resilience.permit import Permit
from dub5.service.resilience.retry import BudgetCharge
from tests.support.examples import examples

SMALL, LARGE = Target("one", "small"), Target("one", "large")  # one provider, one host
NEIGHBOUR, FAR = Target("two", "m"), Target("three", "m")  # the same host, a host of its own
ORIGINS = {SMALL: "https://a", LARGE: "https://a", NEIGHBOUR: "https://a", FAR: "https://b"}
KEYS = {"one": (Secret("first"), Secret("second")), "three": (Secret("only"),)}
OPTIONS = GuardOptions(
    BreakerOptions(window_s=20, calls_min=4, failures_in_a_row=3, open_s=4.0, probe_s=6.0),
    BudgetOptions(share=0.2, floor_per_s=0.1),
    LimiterOptions(min=2, max=6),
    HealthOptions(calls_min=5, failure_share=0.2),
)
TARGETS = st.sampled_from(list(ORIGINS))
VERDICTS = st.sampled_from(
    [
        None,
        None,
        Classification(Then.RETRY, Blame.TARGET, "http_500", status=500),
        Classification(
            Then.RETRY,
            Blame.TARGET,
            "http_503",
            cooldown_s=9.0,
            cooldown_reason=CooldownReason.WAITING,
            status=503,
        ),
        Classification(Then.NEXT, Blame.TARGET, "first_token_timeout", overload=True),
        Classification(Then.NEXT, Blame.HOST, "connect_refused", overload=True),
        Classification(Then.NEXT, Blame.KEY, "http_429", cooldown_s=5.0, status=429, overload=True),
        Classification(
            Then.NEXT,
            Blame.KEY,
            "http_401",
            cooldown_s=60.0,
            cooldown_reason=CooldownReason.REFUSED,
            status=401,
        ),
        Classification(Then.ASK_ANOTHER, Blame.NOBODY, "http_400", status=400),
        Classification(Then.GIVE_UP, Blame.NOBODY, "cancelled", maybe_billed=True),
    ]
)
LEFT = Classification(Then.GIVE_UP, Blame.NOBODY, "cancelled")


@dataclass
class OpenAttempt:
    """A try that is out."""

    target: Target
    permit: Permit
    committed: bool = False


class FleetMachine(RuleBasedStateMachine):
    """Beside the fleet stand a list of who is out, and a table of who asked to be left alone until when."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(ORIGINS, KEYS, OPTIONS, Random(11), Events(self.told))
        self.now_s = 0.0
        self.out: list[OpenAttempt] = []
        self.over: list[Permit] = []
        self.cooldown_until_s: dict[tuple[Target, str | None], float] = {}
        self.isolated: set[str] = set()
        self.last: dict[tuple[type[Event], str], str] = {}

    def told(self, event: Event) -> None:
        """Each change begins where the one before it ended."""
        if isinstance(event, BreakerChanged | HealthChanged):
            breaker = isinstance(event, BreakerChanged)
            scope = event.scope if isinstance(event, BreakerChanged) else event.target
            before = self.last.get((type(event), scope), "closed" if breaker else "healthy")
            assert event.before == before != event.after
            self.last[type(event), scope] = event.after

    def state(self, target: Target) -> TargetSnapshot:
        return self.fleet.snapshot(target, self.now_s)

    def pick(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.out) - 1))

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 6.0, 15.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(
        whom=TARGETS, charge=st.sampled_from(BudgetCharge), last_resort=st.booleans(), times=st.integers(1, 4)
    )
    def enter(self, whom: Target, charge: BudgetCharge, last_resort: bool, times: int) -> None:
        for _ in range(times):
            self._enter(whom, charge, last_resort)

    def _enter(self, target: Target, charge: BudgetCharge, last_resort: bool) -> None:
        may, wait_s = self.fleet.may_ask(target, self.now_s), self.fleet.wait_s(target, self.now_s)
        permit = self.fleet.try_acquire(target, self.now_s, charge, last_resort=last_resort)
        if not isinstance(permit, Permit):
            unpaid = permit.reason == "retry_budget_spent"
            assert (charge is BudgetCharge.WITHDRAW) if unpaid else (permit.usable_as_last_resort or not may)
            assert not (permit.usable_as_last_resort and last_resort), (
                "a soft reason is none for the last resort"
            )
            return
        assert may, "what may not be asked was"
        assert last_resort or wait_s == 0.0, "somebody was let in before the wait was over"
        assert target.provider not in self.isolated
        assert self.cooldown_until_s.get((target, permit.key), 0.0) <= self.now_s, "a key was used that rests"
        self.out.append(OpenAttempt(target, permit))
        assert self.state(target).provider_in_flight <= self.state(target).limit

    @precondition(lambda self: self.out)
    @rule(data=st.data(), took_s=st.sampled_from([0.1, 8.0]))
    def first_content(self, data: st.DataObject, took_s: float) -> None:
        one = self.out[self.pick(data)]
        if not one.committed:
            one.committed = True
            one.permit.commit(self.now_s, took_s, timeout_s=10.0)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), classification=VERDICTS, times=st.integers(1, 4))
    def end(self, data: st.DataObject, classification: Classification | None, times: int) -> None:
        for _ in range(min(times, len(self.out))):
            self._end(self.out.pop(self.pick(data)), classification)

    def _end(self, one: OpenAttempt, classification: Classification | None) -> None:
        key = one.permit.key
        if classification is not None:
            until_s = self.now_s + classification.cooldown_s
            self.cooldown_until_s[one.target, key] = max(
                self.cooldown_until_s.get((one.target, key), 0.0), until_s
            )
        one.permit.end(
            classification, self.now_s, reached=classification is None or classification.status is not None
        )
        self.over.append(one.permit)

    @precondition(lambda self: self.over)
    @rule(classification=VERDICTS)
    def end_again(self, classification: Classification | None) -> None:
        before = self.fleet.snapshots(self.now_s)
        self.over.pop().end(classification, self.now_s, reached=True)
        assert self.fleet.snapshots(self.now_s) == before

    @rule(providers=st.sets(st.sampled_from(["one", "two", "three"]), max_size=1))
    def isolate(self, providers: set[str]) -> None:
        self.isolated = providers
        self.fleet.isolate(providers, self.now_s)

    @invariant()
    def everybody_is_counted(self) -> None:
        for target in ORIGINS:
            state = self.state(target)
            assert state.in_flight == sum(one.target == target for one in self.out)
            assert state.provider_in_flight == sum(one.target.provider == target.provider for one in self.out)
            assert state.probing <= 2, "one for the target, one for its host"

    @invariant()
    def whoever_is_forgotten_may_be_asked_if_there_is_room(self) -> None:
        for target in self.fleet.probes_due(self.now_s, 2.0):
            assert self.state(target).probe_due
            full = self.state(target).provider_in_flight >= self.state(target).limit
            assert full or self.fleet.may_ask(target, self.now_s)

    def teardown(self) -> None:
        """With everybody home, each target can be asked as soon as its own wait is over."""
        self.isolate(set())
        for one in self.out:
            one.permit.end(LEFT, self.now_s, reached=False)
        for target in ORIGINS:
            ready_s = self.now_s + self.fleet.wait_s(target, self.now_s)
            assert self.fleet.may_ask(target, ready_s + 1e-6), f"{target.name} is lost"


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = examples(50, stateful_step_count=35)
