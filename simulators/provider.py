"""A simulated provider: a persona, the faults that are set on it, and its part of the ledger.

request -> persona -> fault ... -> watched by the ledger -> front end
"""

import random
from collections.abc import Callable, Iterable, Mapping

import msgspec

from dub5.simulators.faults.active import ActiveFault
from dub5.simulators.faults.answers import Status
from dub5.simulators.faults.base import Fault
from dub5.simulators.faults.reachability import Reachability
from dub5.simulators.latency import PRESETS
from dub5.simulators.ledger import Ledger
from dub5.simulators.ledger_line import LedgerLineWriter
from dub5.simulators.limits.concurrency import Capacity, SlotQueue
from dub5.simulators.limits.rate import Account, BucketState, Limits, distorted, price
from dub5.simulators.personas import PERSONAS
from dub5.simulators.personas.base import (
    FixedResponse,
    ParsedRequest,
    PersonaContext,
    Profile,
    answer_tokens,
    parse_request,
)
from dub5.simulators.script import Head, Script, SimRequest
from dub5.simulators.settings import SimulatorSettings

EPOCH_S = 1_763_700_000


class SimulatedProvider:
    """Answers requests; give it to `sockets.serve` or to the virtual wire.

    `now` tells seconds since the start, by the front end's clock; `rng` decides everything else.
    """

    def __init__(
        self,
        persona: str,
        profile: Profile,
        *,
        rng: random.Random,
        now: Callable[[], float],
        ledger: Ledger | None = None,
        epoch_s: int = EPOCH_S,
        limits: Limits | None = None,
        account: Account | None = None,
        capacity: Capacity | None = None,
    ) -> None:
        self.persona = PERSONAS[persona]
        self.profile = profile
        self.ledger = ledger or Ledger()
        self.faults: list[ActiveFault] = []
        self._rng = rng
        self._outages_rng = (
            random.Random()
        )  # draws windows; apart, as a fault must change nothing but its share
        self._outages_rng.setstate(rng.getstate())
        self.now = now
        self._epoch_s = epoch_s
        self._requests = 0
        self.reachability = Reachability(now, _derived_rng(self._outages_rng))
        self.slot_queue = SlotQueue(capacity or Capacity(), now)
        self.limits = limits or Limits()
        self.account = account or self.limits.account(daily_windows=self.persona.daily_windows)
        self._started_with = (self.limits, self.slot_queue.capacity)

    def set_faults(self, faults: Iterable[Fault]) -> None:
        """These faults, in this order, and no others, from now on. Raises BadFault if the front end cannot do one."""
        wanted = list(faults)
        self.reachability.check(wanted)
        self._use([self._active(fault) for fault in wanted])

    def set_fault(self, fault: Fault) -> None:
        """One fault more, in place of any other of its kind. Raises BadFault."""
        self.reachability.check([fault])
        kept = [known for known in self.faults if known.fault.kind != fault.kind]
        self._use([*kept, self._active(fault)])

    def add_fault(self, fault: Fault, outages_rng: random.Random) -> ActiveFault:
        """Add one fault beside all others; `outages_rng` draws its windows, if they are drawn. Raises BadFault."""
        self.reachability.check([fault])
        added = ActiveFault(fault, self.now(), outages_rng)
        self._use([*self.faults, added])
        return added

    def drop_fault(self, added: ActiveFault) -> None:
        """Heals the provider of one that was added."""
        self._use([known for known in self.faults if known is not added])

    def clear_faults(self, kind: str | None = None) -> None:
        """Heals the provider: of one kind of fault, or of all."""
        self._use([known for known in self.faults if kind is not None and known.fault.kind != kind])

    def set_capacity(self, capacity: Capacity | None = None) -> None:
        """Another capacity from now on; None: that of the start. Requests under way keep their place."""
        self.slot_queue.change(self._started_with[1] if capacity is None else capacity)

    def set_limits(self, limits: Limits | None = None) -> None:
        """Other limits from now on, for its whole organisation; None: those of the start. What is used stays used.

        Raises ValueError if they name another organisation.
        """
        wanted = self._started_with[0] if limits is None else limits
        ours = self.limits.organisation
        if wanted.organisation not in ("", ours):
            raise ValueError(f"the organisation is `{ours}` from the start, and cannot become another")
        self.limits = msgspec.structs.replace(wanted, organisation=ours)
        buckets = wanted.buckets(daily_windows=self.persona.daily_windows)
        self.account.change(buckets, self._epoch_s + self.now())

    def bucket_states(self) -> list[BucketState]:
        """How its buckets stand now."""
        return self.account.bucket_states(self._epoch_s + self.now())

    def __call__(self, request: SimRequest) -> Script:
        self._requests += 1
        at_s = self.now()
        rng, faults_rng = (random.Random(self._rng.getrandbits(64)) for _ in range(2))
        context = PersonaContext(
            self.profile, self._epoch_s + int(at_s), rng, request.headers.get("accept", "")
        )
        parsed = parse_request(request.body)
        due = [known.apply_to(request, parsed, at_s, faults_rng) for known in self.faults]
        applied = [fault for fault in due if fault is not None]
        for fault in applied:
            context = fault.prepared(context)
        script, refused = self._answer(request, parsed, context)
        if self.limits.headers and self.account.limited:
            script = with_headers(script, self._limit_headers(at_s, refused=refused == "limit"))
        for fault in applied:
            script = fault.on(script, self.persona, context)
        works = request.method == "POST" and not refused and not any(isinstance(f, Status) for f in applied)
        if works:
            script = self.slot_queue.serve(script)
        names = (*(fault.kind for fault in applied), *([refused] if refused else []))
        writer = LedgerLineWriter(self.profile.name, request, parsed, at_s, names, self._requests)
        return writer.record(script, self.ledger, self.now)

    def _answer(
        self, request: SimRequest, parsed: ParsedRequest, context: PersonaContext
    ) -> tuple[Script, str]:
        """What the persona says; and "limit" or "queue_full" if that is all it says."""
        if request.method == "POST":
            if limited := self._limited(parsed, context):
                return limited.script(), "limit"
            if self.slot_queue.is_full():
                return self.persona.overloaded(context).script(), "queue_full"
        return self.persona.answer(request, parsed, context), ""

    def _limited(self, parsed: ParsedRequest, context: PersonaContext) -> FixedResponse | None:
        """The refusal, if the caller's limits do not cover this request; else it is paid for."""
        now_s = self._epoch_s + self.now()
        excess = self.account.take(price(parsed.prompt_tokens, answer_tokens(parsed, context.profile)), now_s)
        if excess is None:
            return None
        response = self.persona.limited(excess, context)
        return FixedResponse(
            response.status, distorted(response.headers, self.limits, excess.wait_s, now_s), response.body
        )

    def _limit_headers(self, at_s: float, *, refused: bool) -> dict[str, str]:
        now_s = self._epoch_s + at_s
        return self.persona.limit_headers(self.account.bucket_states(now_s), now_s, refused=refused)

    def _use(self, faults: list[ActiveFault]) -> None:
        self.faults = faults
        self.reachability.use(faults)

    def _active(self, fault: Fault) -> ActiveFault:
        return ActiveFault(fault, self.now(), random.Random(self._outages_rng.getrandbits(64)))


def make(
    settings: SimulatorSettings, *, now: Callable[[], float], epoch_s: int = EPOCH_S
) -> tuple[dict[str, SimulatedProvider], Ledger]:
    """All providers by name, and the ledger they share. `now`: as in SimulatedProvider."""
    ledger, providers = Ledger(), {}
    accounts: dict[str, Account] = {}
    for wanted in settings.providers:
        latency = PRESETS[wanted.latency]
        profile = Profile(wanted.name, latency, wanted.words, wanted.key, wanted.models, wanted.edge)
        rng = random.Random(f"{settings.seed}/{wanted.name}")
        shared = accounts.get(wanted.limits.organisation)
        provider = SimulatedProvider(
            wanted.persona,
            profile,
            rng=rng,
            now=now,
            ledger=ledger,
            epoch_s=epoch_s,
            limits=wanted.limits,
            account=shared,
            capacity=wanted.capacity,
        )
        if wanted.limits.organisation:
            accounts[wanted.limits.organisation] = provider.account
        provider.set_faults(wanted.faults)
        providers[wanted.name] = provider
    for i, (fault, names) in enumerate(settings.shared_faults):
        for name in names:  # the same chance for each: what is drawn strikes all of them at once
            providers[name].add_fault(fault, random.Random(f"{settings.seed}/shared/{i}"))
    return providers, ledger


def _derived_rng(rng: random.Random) -> random.Random:
    """An rng of its own, so that the other's draws stay as they are."""
    copy = random.Random()
    copy.setstate(rng.getstate())
    return random.Random(f"connections/{copy.getrandbits(64)}")


def with_headers(script: Script, more: Mapping[str, str]) -> Script:
    """The script with more headers; those it has already stay."""
    for action in script:
        yield Head(action.status, {**more, **action.headers}) if isinstance(action, Head) else action
