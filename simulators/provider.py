"""A simulated provider: a persona, the faults that are set on it, and its part of the ledger.

request -> persona -> fault ... -> watched by the ledger -> front end
"""

import random
from collections.abc import Callable, Iterable, Mapping

import msgspec

from dub5.simulators.faults.active import SetFault
from dub5.simulators.faults.answers import Status
from dub5.simulators.faults.base import Fault
from dub5.simulators.faults.reachability import Way
from dub5.simulators.latency import PRESETS
from dub5.simulators.ledger import Ledger
from dub5.simulators.ledger_line import Attempt
from dub5.simulators.limits.concurrency import Capacity, Desk
from dub5.simulators.limits.rate import Account, Limits, Standing, distorted, price
from dub5.simulators.personas import PERSONAS
from dub5.simulators.personas.base import Asked, Page, Profile, Turn, answer_tokens, read_asked
from dub5.simulators.script import Head, Script, SimRequest
from dub5.simulators.settings import Settings

EPOCH_S = 1_763_700_000


class Provider:
    """Answers requests; give it to `sockets.serve` or to the virtual wire.

    `now` tells seconds since the start, by the front end's clock; `chance` decides everything else.
    """

    def __init__(
        self,
        persona: str,
        profile: Profile,
        *,
        chance: random.Random,
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
        self.faults: list[SetFault] = []
        self._chance = chance
        self._outages = random.Random()  # draws windows; apart, as a fault must change nothing but its share
        self._outages.setstate(chance.getstate())
        self.now = now
        self._epoch_s = epoch_s
        self._requests = 0
        self.way = Way(now, _apart(self._outages))
        self.desk = Desk(capacity or Capacity(), now)
        self.limits = limits or Limits()
        self.account = account or self.limits.account(daily_windows=self.persona.daily_windows)
        self._started_with = (self.limits, self.desk.capacity)

    def set_faults(self, faults: Iterable[Fault]) -> None:
        """These faults, in this order, and no others, from now on. Raises BadFault if the front end cannot do one."""
        wanted = list(faults)
        self.way.check(wanted)
        self._use([self._in_force(fault) for fault in wanted])

    def set_fault(self, fault: Fault) -> None:
        """One fault more, in place of any other of its kind. Raises BadFault."""
        self.way.check([fault])
        kept = [known for known in self.faults if known.fault.kind != fault.kind]
        self._use([*kept, self._in_force(fault)])

    def add_fault(self, fault: Fault, outages: random.Random) -> SetFault:
        """One fault more, beside all others; `outages` draws its windows, if they are drawn. Raises BadFault."""
        self.way.check([fault])
        added = SetFault(fault, self.now(), outages)
        self._use([*self.faults, added])
        return added

    def drop_fault(self, added: SetFault) -> None:
        """Heals the provider of one that was added."""
        self._use([known for known in self.faults if known is not added])

    def clear_faults(self, kind: str | None = None) -> None:
        """Heals the provider: of one kind of fault, or of all."""
        self._use([known for known in self.faults if kind is not None and known.fault.kind != kind])

    def set_capacity(self, capacity: Capacity | None = None) -> None:
        """Another capacity from now on; None: that of the start. Requests under way keep their place."""
        self.desk.change(self._started_with[1] if capacity is None else capacity)

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

    def standings(self) -> list[Standing]:
        """How its buckets stand now."""
        return self.account.standings(self._epoch_s + self.now())

    def __call__(self, request: SimRequest) -> Script:
        self._requests += 1
        at_s = self.now()
        chance, luck = (random.Random(self._chance.getrandbits(64)) for _ in range(2))
        turn = Turn(self.profile, self._epoch_s + int(at_s), chance, request.headers.get("accept", ""))
        asked = read_asked(request.body)
        strikes = [known.strike(request, asked, at_s, luck) for known in self.faults]
        struck = [fault for fault in strikes if fault is not None]
        for fault in struck:
            turn = fault.prepared(turn)
        script, refused = self._answer(request, asked, turn)
        if self.limits.headers and self.account.limited:
            script = with_headers(script, self._told(at_s, refused=refused == "limit"))
        for fault in struck:
            script = fault.on(script, self.persona, turn)
        works = request.method == "POST" and not refused and not any(isinstance(f, Status) for f in struck)
        if works:
            script = self.desk.serve(script)
        names = (*(fault.kind for fault in struck), *([refused] if refused else []))
        attempt = Attempt(self.profile.name, request, asked, at_s, names, self._requests)
        return attempt.watch(script, self.ledger, self.now)

    def _answer(self, request: SimRequest, asked: Asked, turn: Turn) -> tuple[Script, str]:
        """What the persona says; and "limit" or "queue_full" if that is all it says."""
        if request.method == "POST":
            if limited := self._limited(asked, turn):
                return limited.script(), "limit"
            if self.desk.is_full():
                return self.persona.overloaded(turn).script(), "queue_full"
        return self.persona.answer(request, asked, turn), ""

    def _limited(self, asked: Asked, turn: Turn) -> Page | None:
        """The refusal, if the caller's limits do not cover this request; else it is paid for."""
        now_s = self._epoch_s + self.now()
        excess = self.account.take(price(asked.prompt_tokens, answer_tokens(asked, turn.profile)), now_s)
        if excess is None:
            return None
        page = self.persona.limited(excess, turn)
        return Page(page.status, distorted(page.headers, self.limits, excess.wait_s, now_s), page.body)

    def _told(self, at_s: float, *, refused: bool) -> dict[str, str]:
        now_s = self._epoch_s + at_s
        return self.persona.limit_headers(self.account.standings(now_s), now_s, refused=refused)

    def _use(self, faults: list[SetFault]) -> None:
        self.faults = faults
        self.way.use(faults)

    def _in_force(self, fault: Fault) -> SetFault:
        return SetFault(fault, self.now(), random.Random(self._outages.getrandbits(64)))


def make(
    settings: Settings, *, now: Callable[[], float], epoch_s: int = EPOCH_S
) -> tuple[dict[str, Provider], Ledger]:
    """All providers by name, and the ledger they share. `now`: as in Provider."""
    ledger, providers = Ledger(), {}
    accounts: dict[str, Account] = {}
    for wanted in settings.providers:
        latency = PRESETS[wanted.latency]
        profile = Profile(wanted.name, latency, wanted.words, wanted.key, wanted.models, wanted.edge)
        chance = random.Random(f"{settings.seed}/{wanted.name}")
        shared = accounts.get(wanted.limits.organisation)
        provider = Provider(
            wanted.persona,
            profile,
            chance=chance,
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


def _apart(chance: random.Random) -> random.Random:
    """Luck of its own, so that the other's draws stay as they are."""
    copy = random.Random()
    copy.setstate(chance.getstate())
    return random.Random(f"connections/{copy.getrandbits(64)}")


def with_headers(script: Script, more: Mapping[str, str]) -> Script:
    """The script with more headers; those it has already stay."""
    for action in script:
        yield Head(action.status, {**more, **action.headers}) if isinstance(action, Head) else action
