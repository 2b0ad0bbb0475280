"""The guards together, situation by situation, all of them real: what one scope knows, and who else hears of
it."""

from dataclasses import replace
from random import Random

import pytest

from dub5.service.config.options import BreakerOptions, BudgetOptions, HealthOptions, LimiterOptions
from dub5.service.config.settings import Secret
from dub5.service.events import BreakerChanged, BudgetSpent, Event, Events, HealthChanged, LimitLowered
from dub5.service.model import Caller, Target
from dub5.service.resilience.circuit_breaker import BreakerState
from dub5.service.resilience.classify import Blame, Classification, CooldownReason, Then
from dub5.service.resilience.fleet import Fleet, GuardOptions
from dub5.service.resilience.health import Health
from dub5.service.resilience.permit import Permit
from dub5.service.resilience.retry import BudgetCharge
from dub5.service.resilience.target import NotPermitted

SMALL, LARGE = Target("one", "small"), Target("one", "large")  # one provider, one host
NEIGHBOUR = Target("two", "m")  # another provider on the same host
FAR = Target("three", "m")  # a host of its own
ORIGINS = {SMALL: "https://a", LARGE: "https://a", NEIGHBOUR: "https://a", FAR: "https://b"}
KEYS = {"one": (Secret("first"), Secret("second")), "three": (Secret("only"),)}

BREAKER = BreakerOptions(open_s=4.0, probe_s=10.0)
DOWN = Classification(Then.RETRY, Blame.TARGET, "http_500", status=500)
GONE = Classification(Then.NEXT, Blame.HOST, "connect_refused", overload=True)
LIMITED = Classification(Then.NEXT, Blame.KEY, "http_429", cooldown_s=20.0, status=429, overload=True)
REFUSED = Classification(
    Then.NEXT, Blame.KEY, "http_401", cooldown_s=60.0, cooldown_reason=CooldownReason.REFUSED, status=401
)
TOO_LARGE = Classification(Then.NEXT, Blame.NOBODY, "http_413", status=413)
BAD_REQUEST = Classification(Then.ASK_ANOTHER, Blame.NOBODY, "http_400", status=400)
LEFT = Classification(Then.GIVE_UP, Blame.NOBODY, "cancelled", maybe_billed=True)


class ObservedFleet:
    """A fleet, and every event that it told."""

    def __init__(
        self,
        *,
        breaker: BreakerOptions = BREAKER,
        limiter: LimiterOptions = LimiterOptions(),  # noqa: B008  # frozen
        budget: BudgetOptions = BudgetOptions(),  # noqa: B008
        health: HealthOptions = HealthOptions(),  # noqa: B008
    ) -> None:
        self.events: list[Event] = []
        self.guards = GuardOptions(breaker, budget, limiter, health)
        self.fleet = Fleet(ORIGINS, KEYS, self.guards, Random(3), Events(self.events.append))

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def try_acquire(
        self,
        target: Target,
        now_s: float = 0.0,
        charge: BudgetCharge = BudgetCharge.DEPOSIT,
        *,
        last_resort: bool = False,
    ) -> Permit:
        permit = self.fleet.try_acquire(target, now_s, charge, last_resort=last_resort)
        assert isinstance(permit, Permit), permit
        return permit

    def not_permitted(self, target: Target, now_s: float = 0.0, *, last_resort: bool = False) -> NotPermitted:
        permit = self.fleet.try_acquire(target, now_s, last_resort=last_resort)
        assert isinstance(permit, NotPermitted)
        return permit

    def call(
        self, target: Target, classification: Classification | None = None, now_s: float = 0.0, times: int = 1
    ) -> None:
        for _ in range(times):
            reached = classification is None or classification.status is not None
            self.try_acquire(target, now_s).end(classification, now_s, reached=reached)

    def slow(self, target: Target, now_s: float = 0.0, times: int = 1, took_s: float = 8.0) -> None:
        """Streams that begin late and are whole in the end."""
        for _ in range(times):
            permit = self.try_acquire(target, now_s)
            permit.commit(now_s, took_s, timeout_s=10.0)
            permit.end(None, now_s, reached=True)


class TestKeys:
    def test_one_cools_down(self) -> None:
        """A limit on one key is no limit on the other; with both, the target is left alone until the first is
        free."""
        observed = ObservedFleet()
        first = observed.try_acquire(SMALL)
        assert first.key == "first"
        first.end(LIMITED, 0.0, reached=True)
        second = observed.try_acquire(SMALL, 1.0)
        assert second.key == "second" and observed.fleet.has_free_key(SMALL, 1.0)
        second.end(LIMITED, 1.0, reached=True)
        assert observed.not_permitted(SMALL, 19.9) == NotPermitted(CooldownReason.LIMITED)
        assert observed.fleet.wait_s(SMALL, 19.9) == pytest.approx(0.1)
        assert observed.try_acquire(SMALL, 20.0).key == "first"

    def test_why_it_rests(self) -> None:
        """The trail names the reason of a key's cool-down."""
        observed = ObservedFleet()
        observed.call(FAR, REFUSED)
        assert observed.not_permitted(FAR, 59.9) == NotPermitted(CooldownReason.REFUSED)

    def test_a_shorter_wait_does_not_undo_a_longer_one(self) -> None:
        """Two answers cross: the later end of the cool-down holds."""
        observed = ObservedFleet()
        one, other = observed.try_acquire(FAR), observed.try_acquire(FAR)
        one.end(REFUSED, 0.0, reached=True)
        other.end(LIMITED, 1.0, reached=True)
        assert observed.fleet.wait_s(FAR, 1.0) == 59.0
        assert observed.not_permitted(FAR, 30.0) == NotPermitted(CooldownReason.REFUSED)

    def test_per_model(self) -> None:
        """A limit is one of key and model: the other model of the provider may be asked."""
        observed = ObservedFleet()
        observed.call(SMALL, LIMITED, times=2)
        assert observed.not_permitted(SMALL, 1.0)
        assert observed.try_acquire(LARGE, 1.0).key == "first"

    def test_without_keys(self) -> None:
        """A provider that wants no key is asked without, and cools down all the same."""
        observed = ObservedFleet()
        assert observed.try_acquire(NEIGHBOUR).key is None
        observed.call(NEIGHBOUR, LIMITED)
        assert observed.not_permitted(NEIGHBOUR, 1.0) == NotPermitted(CooldownReason.LIMITED)


class TestBreakers:
    def test_a_target_of_its_own(self) -> None:
        """Failures of one model leave the other models of its provider and its host alone."""
        observed = ObservedFleet()
        observed.call(SMALL, DOWN, times=5)
        assert observed.not_permitted(SMALL) == NotPermitted("breaker_open")
        for other in (LARGE, NEIGHBOUR, FAR):
            observed.try_acquire(other)

    def test_a_host_is_shared(self) -> None:
        """A failed connect counts for every target on that host, and for no other."""
        observed = ObservedFleet()
        observed.call(SMALL, GONE, times=3)
        observed.call(NEIGHBOUR, GONE, times=2)
        for target in (SMALL, LARGE, NEIGHBOUR):
            assert observed.not_permitted(target) == NotPermitted("host_breaker_open")
            assert observed.fleet.snapshot(target, 0.0).breaker is BreakerState.OPEN
        observed.try_acquire(FAR)
        assert [event.scope for event in observed.told(BreakerChanged)] == ["https://a"]  # type: ignore[union-attr]

    def test_one_probe_for_a_host(self) -> None:
        """Of all targets on a host that was gone, one request probes; its first content lets the others
        in."""
        observed = ObservedFleet()
        observed.call(SMALL, GONE, times=5)
        probe = observed.try_acquire(LARGE, 4.0)
        assert probe.probe
        assert observed.not_permitted(SMALL, 4.0) == NotPermitted("host_breaker_open")
        probe.commit(4.5, 0.5, timeout_s=10.0)
        observed.try_acquire(SMALL, 4.5, last_resort=True)

    def test_a_status_proves_the_host(self) -> None:
        """A target that answers 500 for ever never opens its host."""
        observed = ObservedFleet()
        observed.call(SMALL, GONE, times=4)
        observed.call(LARGE, DOWN)
        observed.call(SMALL, GONE, times=4)
        observed.try_acquire(NEIGHBOUR)

    def test_retry_after_holds(self) -> None:
        """A breaker never lets in before the time a provider asked for, with no key of it."""
        observed = ObservedFleet()
        wait = Classification(
            Then.RETRY,
            Blame.TARGET,
            "http_503",
            cooldown_s=100.0,
            cooldown_reason=CooldownReason.WAITING,
            status=503,
        )
        for permit in [observed.try_acquire(SMALL) for _ in range(5)]:
            permit.end(wait, 0.0, reached=True)
        assert observed.not_permitted(SMALL, 99.9) == NotPermitted("breaker_open")
        assert observed.try_acquire(SMALL, 100.0).probe

    @pytest.mark.parametrize("classification", [LEFT, GONE, LIMITED])
    def test_a_probe_that_proved_nothing(self, classification: Classification) -> None:
        """The client left, the host was gone, the key was limited: the target's place for a probe is free
        again."""
        observed = ObservedFleet()
        observed.call(SMALL, DOWN, times=5)
        observed.call(SMALL, classification, 4.0)
        assert observed.try_acquire(SMALL, 30.0).probe

    def test_a_callers_mistake_proves_that_it_lives(self) -> None:
        """A probe that finds its request too large closes the breaker; a refusal does not yet."""
        observed = ObservedFleet()
        observed.call(SMALL, DOWN, times=5)
        observed.call(SMALL, BAD_REQUEST, 4.0)
        assert observed.fleet.snapshot(SMALL, 4.0).breaker is BreakerState.HALF_OPEN
        observed.call(SMALL, TOO_LARGE, 4.0)
        assert observed.fleet.snapshot(SMALL, 4.0).breaker is BreakerState.CLOSED

    def test_ramp(self) -> None:
        """After a recovery most are sent past it, softly: whoever has nobody else may come all the same."""
        observed = ObservedFleet()
        observed.call(SMALL, DOWN, times=5)
        observed.call(SMALL, None, 4.0)
        passed = [observed.fleet.try_acquire(SMALL, 4.5) for _ in range(200)]
        assert 5 <= sum(isinstance(permit, Permit) for permit in passed) <= 50
        assert all(
            permit == NotPermitted("slow_start", usable_as_last_resort=True)
            for permit in passed
            if isinstance(permit, NotPermitted)
        )
        observed.try_acquire(SMALL, 4.5, last_resort=True)

    def test_isolated(self) -> None:
        """An operator's hand is no trouble that passes: every model of the provider, until it lets go."""
        observed = ObservedFleet()
        observed.fleet.isolate({"one"}, 0.0)
        for target in (SMALL, LARGE):
            assert observed.not_permitted(target, 1e6, last_resort=True) == NotPermitted("isolated")
            assert not observed.fleet.may_ask(target, 1e6)
            assert observed.fleet.score(target, 1e6).rank == 2
        observed.try_acquire(NEIGHBOUR)
        assert observed.fleet.probes_due(1e6, 0.0) == []
        observed.fleet.isolate({"two"}, 2e6)
        observed.try_acquire(SMALL, 2e6, last_resort=True)
        observed.not_permitted(NEIGHBOUR, 2e6)


class TestSlow:
    def test_better_than_nobody(self) -> None:
        """Open for slowness alone it is passed over, softly: the last resort may ask."""
        observed = ObservedFleet()
        observed.slow(SMALL, times=10)
        assert observed.not_permitted(SMALL, 1.0) == NotPermitted("breaker_open", usable_as_last_resort=True)
        assert not observed.try_acquire(SMALL, 1.0, last_resort=True).probe

    def test_also_while_a_probe_is_out(self) -> None:
        """The slow probe of somebody else is no reason to give a request no answer."""
        observed = ObservedFleet()
        observed.slow(SMALL, times=10)
        assert observed.try_acquire(SMALL, 4.0).probe
        assert observed.not_permitted(SMALL, 4.5) == NotPermitted("breaker_open", usable_as_last_resort=True)
        assert not observed.try_acquire(SMALL, 4.5, last_resort=True).probe

    def test_last_resort_is_a_probe_when_one_is_due(self) -> None:
        """A last-resort call to a target whose probe is due counts as the probe."""
        observed = ObservedFleet()
        observed.slow(SMALL, times=10)
        assert observed.try_acquire(SMALL, 4.0, last_resort=True).probe

    def test_failing_is_not(self) -> None:
        """Open for failures it is left alone even by those who have nobody else."""
        observed = ObservedFleet()
        observed.call(SMALL, DOWN, times=5)
        assert observed.not_permitted(SMALL, 1.0, last_resort=True) == NotPermitted("breaker_open")


class TestProvider:
    def test_a_limit_is_shared(self) -> None:
        """Two models of one provider share its places; the last resort gets none that is not there."""
        observed = ObservedFleet(limiter=LimiterOptions(min=1, max=2))
        first = observed.try_acquire(SMALL)
        observed.try_acquire(LARGE)
        for target in (SMALL, LARGE):
            assert observed.not_permitted(target, last_resort=True) == NotPermitted("provider_full")
        observed.try_acquire(NEIGHBOUR)
        first.end(LEFT, 0.0, reached=False)
        observed.try_acquire(LARGE)

    def test_a_drop_lowers_it_for_both(self) -> None:
        """A limit that one model showed is one for the other, told once for one overload."""
        observed = ObservedFleet(limiter=LimiterOptions(min=2, max=100))
        for permit in [observed.try_acquire(SMALL) for _ in range(50)]:
            permit.end(LIMITED, 0.0, reached=True)
        assert observed.fleet.snapshot(LARGE, 0.0).limit == 35
        assert observed.told(LimitLowered) == [LimitLowered("one", 100, 35, "http_429")]

    def test_a_budget_is_shared(self) -> None:
        """Retries at one model are paid from what first tries at both brought in; then no more, and it is
        told."""
        observed = ObservedFleet(budget=BudgetOptions(share=0.1, floor_per_s=0.0))
        observed.call(SMALL, times=5)
        observed.call(LARGE, times=5)
        observed.try_acquire(LARGE, charge=BudgetCharge.WITHDRAW)
        assert observed.fleet.try_acquire(SMALL, 0.0, BudgetCharge.WITHDRAW) == NotPermitted(
            "retry_budget_spent"
        )
        assert observed.told(BudgetSpent) == [BudgetSpent("one")]
        for _ in range(30):
            observed.try_acquire(SMALL, charge=BudgetCharge.NONE)
        assert observed.fleet.try_acquire(SMALL, 0.0, BudgetCharge.WITHDRAW) == NotPermitted(
            "retry_budget_spent"
        )

    def test_who_is_barred_pays_nothing(self) -> None:
        """A retry that a breaker forbids leaves the purse as it was."""
        observed = ObservedFleet(budget=BudgetOptions(share=0.0, floor_per_s=0.1))
        observed.call(SMALL, DOWN, times=5)
        assert observed.fleet.try_acquire(SMALL, 0.0, BudgetCharge.WITHDRAW) == NotPermitted("breaker_open")
        observed.try_acquire(LARGE, charge=BudgetCharge.WITHDRAW)


class TestPass:
    @pytest.mark.parametrize("again", [None, DOWN, LIMITED, LEFT])
    def test_ended_twice_counts_once(self, again: Classification | None) -> None:
        """Only the first end of a permit counts."""
        observed = ObservedFleet()
        permit = observed.try_acquire(SMALL)
        permit.end(None, 1.0, reached=True)
        before = observed.fleet.snapshots(1.0)
        for _ in range(9):
            permit.end(again, 1.0, reached=True)
        assert observed.fleet.snapshots(1.0) == before
        assert before[0].in_flight == before[0].provider_in_flight == 0
        assert isinstance(observed.fleet.try_acquire(SMALL, 1.0), Permit)

    def test_a_slow_stream_is_slow_though_whole(self) -> None:
        """More than half of the clock for the first token is slow, however well the stream ends."""
        observed = ObservedFleet()
        observed.slow(SMALL, times=10, took_s=5.0)
        observed.try_acquire(SMALL)
        observed.slow(LARGE, times=10, took_s=5.1)
        observed.not_permitted(LARGE)

    def test_contradicted_refusals(self) -> None:
        """A target that refuses for half a minute what another one takes, and takes nothing itself, has an
        open breaker; its probe that is refused does not close it."""
        observed = ObservedFleet()
        observed.call(SMALL, times=20)
        for i in range(35):
            permit = observed.try_acquire(SMALL, 60.0 + i)
            permit.end(BAD_REQUEST, 60.0 + i, reached=True)
            permit.contradict(Caller(), 60.0 + i)
        observed.not_permitted(SMALL, 95.0)
        probe = observed.try_acquire(SMALL, 110.0)
        assert probe.probe
        probe.end(BAD_REQUEST, 110.0, reached=True)
        probe.contradict(Caller(), 110.5)
        observed.not_permitted(SMALL, 111.0)

    def test_refusals_that_nobody_contradicts(self) -> None:
        """A refusal alone counts for nothing, however many there are."""
        observed = ObservedFleet()
        observed.call(SMALL, BAD_REQUEST, times=200)
        observed.try_acquire(SMALL)


class TestStanding:
    def test_a_failing_target_goes_behind(self) -> None:
        """Some failures among many calls: degraded, told once, and well again when they lie back far
        enough."""
        observed = ObservedFleet(health=HealthOptions(calls_min=20))
        observed.call(SMALL, times=18)
        observed.call(SMALL, DOWN, times=2)
        assert observed.fleet.score(SMALL, 1.0).rank == 1
        assert not observed.fleet.is_healthy(SMALL, 1.0)
        assert observed.fleet.snapshot(SMALL, 1.0).health is Health.DEGRADED
        assert observed.fleet.score(SMALL, 31.0).rank == 0 and observed.fleet.is_healthy(SMALL, 31.0)
        name = SMALL.name
        assert observed.told(HealthChanged) == [
            HealthChanged(name, "healthy", "degraded"),
            HealthChanged(name, "degraded", "healthy"),
        ]

    def test_a_recovery_is_a_new_page(self) -> None:
        """What failed before a probe succeeded does not keep its target behind the others."""
        observed = ObservedFleet(health=HealthOptions(calls_min=5))
        observed.call(SMALL, DOWN, times=5)
        observed.call(SMALL, None, 4.0)
        assert observed.fleet.score(SMALL, 4.0).rank == 0

    @pytest.mark.parametrize("trouble", [DOWN, GONE])
    def test_due_for_a_probe_it_stands_in_front(self, trouble: Classification) -> None:
        """Behind everybody while its breaker is open; where it always stood as soon as somebody should find
        out; and behind again while the probe is out."""
        observed = ObservedFleet()
        observed.call(SMALL, trouble, times=5)
        assert observed.fleet.score(SMALL, 2.0).rank == 2
        assert observed.fleet.score(SMALL, 4.0).rank == 0 and observed.fleet.snapshot(SMALL, 4.0).probe_due
        observed.try_acquire(SMALL, 4.0)
        assert (
            observed.fleet.score(SMALL, 4.5).rank == 1 and not observed.fleet.snapshot(SMALL, 4.5).probe_due
        )

    def test_a_failing_target_is_tried_now_and_then(self) -> None:
        """Degraded, and not asked for `canary_interval_s` and five requests, or a minute: one request goes to
        it, or nobody would find out that it is well."""
        observed = ObservedFleet(health=HealthOptions(calls_min=5, canary_interval_s=2.0, window_s=300))
        observed.call(SMALL, times=4)
        observed.call(SMALL, DOWN)
        observed.call(FAR, times=4)
        assert [observed.fleet.score(SMALL, now_s).rank for now_s in (2.0, 59.9, 60.0)] == [1, 1, 0]
        observed.call(FAR)
        assert [observed.fleet.score(SMALL, now_s).rank for now_s in (0.0, 1.9, 2.0)] == [1, 1, 0]
        observed.call(SMALL, None, 2.0)
        observed.call(FAR, None, 2.0, times=5)
        assert observed.fleet.score(SMALL, 2.1).rank == 1

    def test_load(self) -> None:
        """The time to first token times one more than are in flight; a whole answer tells nothing about
        it."""
        observed = ObservedFleet()
        permit = observed.try_acquire(FAR)
        permit.commit(0.5, 0.5, timeout_s=10.0)
        assert observed.fleet.score(FAR, 0.5).load_s == 0.5 * 2
        permit.end(None, 3.0, reached=True)
        observed.call(FAR, None, 3.0)
        assert observed.fleet.score(FAR, 0.5).load_s == 0.5

    def test_one_slow_answer_is_lived_down(self) -> None:
        """A balanced route avoids who was slow once, and so hears nothing new of it: not for ever."""
        observed = ObservedFleet()
        observed.slow(FAR, took_s=4.0)
        for second in range(60):
            observed.slow(NEIGHBOUR, float(second), took_s=0.2)
        assert observed.fleet.score(FAR, 5.0).load_s > observed.fleet.score(NEIGHBOUR, 59.0).load_s
        assert observed.fleet.score(FAR, 59.0).load_s < observed.fleet.score(NEIGHBOUR, 59.0).load_s


class TestForgotten:
    @pytest.mark.parametrize("trouble", [DOWN, GONE])
    def test_nobody_asks_any_more(self, trouble: Classification) -> None:
        """A probe without traffic is due only for a target that is unhealthy, due, and has had no calls for
        long."""
        observed = ObservedFleet()
        observed.call(FAR, trouble, times=5)
        due_s = observed.fleet.wait_s(FAR, 0.0)
        assert observed.fleet.probes_due(due_s + 1.9, 2.0) == []
        assert observed.fleet.probes_due(due_s + 2.0, 2.0) == [FAR]
        probe = observed.try_acquire(FAR, due_s + 2.0)
        assert observed.fleet.probes_due(due_s + 9.0, 2.0) == [], "a probe is out"
        probe.end(None, due_s + 9.0, reached=True)
        assert observed.fleet.probes_due(1e6, 2.0) == [], "it is well"

    def test_told_to_wait(self) -> None:
        """While its key cools down nobody asks, not even we."""
        observed = ObservedFleet()
        permit = observed.try_acquire(FAR)
        observed.call(FAR, DOWN, times=5)
        permit.end(REFUSED, 0.0, reached=True)
        assert observed.fleet.score(FAR, 50.0).rank == 2
        assert observed.fleet.probes_due(61.9, 2.0) == []
        assert observed.fleet.probes_due(62.0, 2.0) == [FAR]

    def test_a_lost_probe(self) -> None:
        """A probe that never came back does not leave its target forgotten for ever."""
        observed = ObservedFleet()
        observed.call(FAR, DOWN, times=5)
        observed.try_acquire(FAR, 4.0)
        assert observed.fleet.probes_due(60.0, 2.0) == [FAR]


class TestNewSettings:
    """A fleet that follows another one."""

    @staticmethod
    def follow(observed: ObservedFleet, origins: dict[Target, str] = ORIGINS, **changed: object) -> None:
        options = replace(observed.guards, **changed)  # type: ignore[arg-type]
        observed.fleet = Fleet(
            origins, KEYS, options, Random(4), Events(observed.events.append), observed.fleet
        )

    def test_what_is_known_stays(self) -> None:
        """Open breakers, resting keys and who is out are where they were; a try ends where it began."""
        observed = ObservedFleet()
        observed.call(SMALL, DOWN, times=5)
        observed.call(NEIGHBOUR, REFUSED)
        out = observed.try_acquire(LARGE)
        before = observed.fleet.snapshots(1.0)
        self.follow(observed)
        assert observed.fleet.snapshots(1.0) == before
        out.end(LIMITED, 1.0, reached=True)
        assert observed.fleet.snapshot(LARGE, 1.0).in_flight == 0
        assert observed.try_acquire(LARGE, 1.0).key == "second"

    def test_a_new_address_is_somebody_else(self) -> None:
        """What a provider did at its old address is not held against the new one, and does not come back to
        it."""
        observed = ObservedFleet()
        observed.call(FAR, DOWN, times=4)
        out = observed.try_acquire(FAR)
        self.follow(observed, ORIGINS | {FAR: "https://c"})
        out.end(DOWN, 0.0, reached=True)
        assert observed.fleet.snapshot(FAR, 0.0).in_flight == 0
        observed.try_acquire(FAR)

    def test_a_lower_limit(self) -> None:
        """Fewer places at once; whoever is out by the old limit is counted by the new one."""
        observed = ObservedFleet()
        out = [observed.try_acquire(SMALL) for _ in range(3)]
        self.follow(observed, limiter=LimiterOptions(min=1, max=2))
        assert observed.not_permitted(LARGE) == NotPermitted("provider_full")
        for permit in out[:2]:
            permit.end(None, 0.0, reached=True)
        observed.try_acquire(LARGE)
