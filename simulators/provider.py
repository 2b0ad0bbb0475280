"""A simulated provider: a persona, the faults that are set on it, and its part of the ledger.

request -> persona -> fault ... -> watched by the ledger -> front end
"""

import random
from collections.abc import Callable, Iterable, Mapping

from simulators.attempt import Attempt
from simulators.capacity import Capacity, Desk
from simulators.fault import Fault
from simulators.faults import Status
from simulators.in_force import SetFault
from simulators.latency import PRESETS
from simulators.ledger import Ledger
from simulators.limits import Account, Limits, distorted, price
from simulators.personas import PERSONAS
from simulators.personas.base import Asked, Page, Profile, Turn, answer_tokens, read_asked
from simulators.script import Head, Script, SimRequest
from simulators.settings import Settings

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
        self._desk = Desk(capacity or Capacity(), now)
        self._limits = limits or Limits()
        self.account = account or self._limits.account(daily_windows=self.persona.daily_windows)

    def set_faults(self, faults: Iterable[Fault]) -> None:
        """These faults, in this order, and no others, for requests from now on."""
        self.faults = [self._in_force(fault) for fault in faults]

    def set_fault(self, fault: Fault) -> None:
        """One fault more, in place of any other of its kind."""
        kept = [known for known in self.faults if known.fault.kind != fault.kind]
        self.faults = [*kept, self._in_force(fault)]

    def add_fault(self, fault: Fault, outages: random.Random) -> None:
        """One fault more, beside all others; `outages` draws its windows, if they are drawn."""
        self.faults = [*self.faults, SetFault(fault, self.now(), outages)]

    def clear_faults(self, kind: str | None = None) -> None:
        """Heals the provider: of one kind of fault, or of all."""
        self.faults = [known for known in self.faults if kind is not None and known.fault.kind != kind]

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
        if self._limits.headers and self.account.limited:
            script = with_headers(script, self._told(at_s, refused=refused == "limit"))
        for fault in struck:
            script = fault.on(script, self.persona, turn)
        works = request.method == "POST" and not refused and not any(isinstance(f, Status) for f in struck)
        if works:
            script = self._desk.serve(script)
        names = (*(fault.kind for fault in struck), *([refused] if refused else []))
        attempt = Attempt(self.profile.name, request, asked, at_s, names, self._requests)
        return attempt.watch(script, self.ledger, self.now)

    def _answer(self, request: SimRequest, asked: Asked, turn: Turn) -> tuple[Script, str]:
        """What the persona says; and "limit" or "queue_full" if that is all it says."""
        if request.method == "POST":
            if limited := self._limited(asked, turn):
                return limited.script(), "limit"
            if self._desk.is_full():
                return self.persona.overloaded(turn).script(), "queue_full"
        return self.persona.answer(request, asked, turn), ""

    def _limited(self, asked: Asked, turn: Turn) -> Page | None:
        """The refusal, if the caller's limits do not cover this request; else it is paid for."""
        now_s = self._epoch_s + self.now()
        excess = self.account.take(price(asked.prompt_tokens, answer_tokens(asked, turn.profile)), now_s)
        if excess is None:
            return None
        page = self.persona.limited(excess, turn)
        return Page(page.status, distorted(page.headers, self._limits, excess.wait_s, now_s), page.body)

    def _told(self, at_s: float, *, refused: bool) -> dict[str, str]:
        now_s = self._epoch_s + at_s
        return self.persona.limit_headers(self.account.standings(now_s), now_s, refused=refused)

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


def with_headers(script: Script, more: Mapping[str, str]) -> Script:
    """The script with more headers; those it has already stay."""
    for action in script:
        yield Head(action.status, {**more, **action.headers}) if isinstance(action, Head) else action
