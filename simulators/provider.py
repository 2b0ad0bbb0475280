"""A simulated provider: a persona, its active faults, its limits and capacity, and its lines in the ledger.

request -> limits -> persona -> fault, fault ... -> slot queue -> recorded in the ledger -> front end

Call `make(settings, now=...)` for all providers of a settings file, or `SimulatedProvider(persona, profile,
...)` for one; then give the provider to `server.sockets.serve` or to `virtual.wire.VirtualWire`.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

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
from dub5.simulators.odd_forms import OddForm, in_odd_form
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
    """A function from a request to the script of its answer; front ends play the script.

    `now` returns the seconds since the start, by the front end's clock; `rng` makes every random decision;
    `form` rewrites the streams.
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
        form: OddForm | None = None,
    ) -> None:
        self.persona = PERSONAS[persona]
        self._form = form
        self.profile = profile
        self.ledger = ledger or Ledger()
        self.faults: list[ActiveFault] = []
        self._rng = rng
        # Outages are drawn by a separate generator: setting a fault must not change the draws of the answers.
        self._outages_rng = random.Random()
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
        """Replace all active faults by these, in this order.

        Raises BadFault if the front end cannot play one.
        """
        wanted = list(faults)
        self.reachability.check(wanted)
        self._use([self._active(fault) for fault in wanted])

    def set_fault(self, fault: Fault) -> None:
        """Activate a fault in place of any other of its kind. Raises BadFault."""
        self.reachability.check([fault])
        kept = [known for known in self.faults if known.fault.kind != fault.kind]
        self._use([*kept, self._active(fault)])

    def add_fault(self, fault: Fault, outages_rng: random.Random) -> ActiveFault:
        """Activate a fault in addition to all others; `outages_rng` draws its windows. Raises BadFault."""
        self.reachability.check([fault])
        added = ActiveFault(fault, self.now(), outages_rng)
        self._use([*self.faults, added])
        return added

    def drop_fault(self, added: ActiveFault) -> None:
        """Deactivate a fault that `add_fault` returned."""
        self._use([known for known in self.faults if known is not added])

    def clear_faults(self, kind: str | None = None) -> None:
        """Deactivate the faults of one kind, or all faults."""
        self._use([known for known in self.faults if kind is not None and known.fault.kind != kind])

    def set_capacity(self, capacity: Capacity | None = None) -> None:
        """Change the capacity; None restores that of the start.

        Requests under way keep their slots and places.
        """
        self.slot_queue.change(self._started_with[1] if capacity is None else capacity)

    def revoke(self, key: str) -> None:
        """Accept a key no more, from the next request on; streams under way go on."""
        self.set_revoked(self.profile.revoked | {key})

    def set_revoked(self, keys: Iterable[str]) -> None:
        """Accept these keys no more, and all others again."""
        self.profile = replace(self.profile, revoked=frozenset(keys))

    def set_limits(self, limits: Limits | None = None) -> None:
        """Change the limits of the whole organisation; None restores those of the start. Usage is kept.

        Raises ValueError if the limits name another organisation.
        """
        wanted = self._started_with[0] if limits is None else limits
        ours = self.limits.organisation
        if wanted.organisation not in ("", ours):
            raise ValueError(f"the organisation is `{ours}` from the start, and cannot become another")
        self.limits = msgspec.structs.replace(wanted, organisation=ours)
        buckets = wanted.buckets(daily_windows=self.persona.daily_windows)
        self.account.change(buckets, self._epoch_s + self.now())

    def bucket_states(self) -> list[BucketState]:
        """Return the state of each rate limit bucket."""
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
        """Return the persona's script, and the reason of a refusal: "limit", "queue_full" or ""."""
        if request.method == "POST":
            if limited := self._limited(parsed, context):
                return limited.script(), "limit"
            if self.slot_queue.is_full():
                return self.persona.overloaded(context).script(), "queue_full"
        script = self.persona.answer(request, parsed, context)
        return in_odd_form(script, self._form) if self._form else script, ""

    def _limited(self, parsed: ParsedRequest, context: PersonaContext) -> FixedResponse | None:
        """Charge the request to the rate limits. Return the refusal if they do not cover it, else None."""
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
    """Return all providers by name, and the ledger that they share. `now`: as in SimulatedProvider."""
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
        for name in names:  # equal generators: a drawn outage hits all of these providers at the same time
            providers[name].add_fault(fault, random.Random(f"{settings.seed}/shared/{i}"))
    return providers, ledger


def _derived_rng(rng: random.Random) -> random.Random:
    """Return a generator that depends on `rng` without drawing from it."""
    copy = random.Random()
    copy.setstate(rng.getstate())
    return random.Random(f"connections/{copy.getrandbits(64)}")


def with_headers(script: Script, more: Mapping[str, str]) -> Script:
    """Yield the script with more headers; a header that the script sets itself wins."""
    for action in script:
        yield Head(action.status, {**more, **action.headers}) if isinstance(action, Head) else action
