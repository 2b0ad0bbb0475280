"""A simulated provider: a persona, the faults that are set on it, and its part of the ledger.

request -> persona -> fault ... -> watched by the ledger -> front end
"""

import random
from collections.abc import Callable, Iterable, Mapping

from simulators.answers import prompt_tag
from simulators.fault import Fault
from simulators.in_force import SetFault
from simulators.latency import PRESETS
from simulators.ledger import Ended, Ledger, Line
from simulators.personas import PERSONAS
from simulators.personas.base import Asked, Profile, Turn, read_asked
from simulators.script import Action, Close, Data, End, Head, Reset, Script, SimRequest
from simulators.settings import Settings

EPOCH_S = 1_763_700_000
ENDS: Mapping[type, Ended] = {End: Ended.END, Close: Ended.CUT, Reset: Ended.RESET}


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
    ) -> None:
        self.persona = PERSONAS[persona]
        self.profile = profile
        self.ledger = ledger or Ledger()
        self.faults: list[SetFault] = []
        self._chance = chance
        self._outages = (
            random.Random()
        )  # for windows that are drawn: apart, as faults must change nothing else
        self._outages.setstate(chance.getstate())
        self.now = now
        self._epoch_s = epoch_s
        self._requests = 0

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
        turn = Turn(self.profile, self._epoch_s + int(at_s), chance)
        asked = read_asked(request.body)
        strikes = [known.strike(request, asked, at_s, luck) for known in self.faults]
        struck = [fault for fault in strikes if fault is not None]
        for fault in struck:
            turn = fault.prepared(turn)
        script = self.persona.answer(request, asked, turn)
        for fault in struck:
            script = fault.on(script, self.persona, turn)
        attempt = _Attempt(self, request, asked, at_s, tuple(fault.kind for fault in struck), self._requests)
        return attempt.watch(script)

    def _in_force(self, fault: Fault) -> SetFault:
        return SetFault(fault, self.now(), random.Random(self._outages.getrandbits(64)))


def make(
    settings: Settings, *, now: Callable[[], float], epoch_s: int = EPOCH_S
) -> tuple[dict[str, Provider], Ledger]:
    """All providers by name, and the ledger they share. `now`: as in Provider."""
    ledger, providers = Ledger(), {}
    for wanted in settings.providers:
        profile = Profile(wanted.name, PRESETS[wanted.latency], wanted.words, wanted.key, wanted.models)
        chance = random.Random(f"{settings.seed}/{wanted.name}")
        provider = Provider(wanted.persona, profile, chance=chance, now=now, ledger=ledger, epoch_s=epoch_s)
        provider.set_faults(wanted.faults)
        providers[wanted.name] = provider
    for i, (fault, names) in enumerate(settings.shared_faults):
        for name in names:  # the same chance for each: what is drawn strikes all of them at once
            providers[name].add_fault(fault, random.Random(f"{settings.seed}/shared/{i}"))
    return providers, ledger


class _Attempt:
    """Counts what goes out, and writes the line when it is over."""

    def __init__(
        self,
        provider: Provider,
        request: SimRequest,
        asked: Asked,
        at_s: float,
        faults: tuple[str, ...],
        number: int,
    ) -> None:
        self._provider = provider
        self._request = request
        self._asked = asked
        self._at_s = at_s
        self._faults = faults
        self._number = number
        self._status = self._bytes = self._tokens = 0

    def watch(self, script: Script) -> Script:
        ended = Ended.CLIENT_LEFT
        self._provider.ledger.opened(self._provider.profile.name)
        try:
            for action in script:
                ended = self._count(action)
                yield action
            if ended is Ended.CLIENT_LEFT:
                ended = Ended.CUT  # a script that just runs out leaves its client without an end
        finally:
            self._write(ended)

    def _count(self, action: Action) -> Ended:
        """Takes note of an action; says how it would have ended if nothing came after it."""
        match action:
            case Head(status):
                self._status = status
            case Data(data, tokens):
                self._bytes += len(data)
                self._tokens += tokens
        return ENDS.get(type(action), Ended.CLIENT_LEFT)

    def _write(self, ended: Ended) -> None:
        ledger, request, now_s = self._provider.ledger, self._request, self._provider.now()
        retry = request.headers.get("x-stainless-retry-count", "")
        ledger.add(
            Line(
                n=ledger.last + 1,
                provider=self._provider.profile.name,
                request=self._number,
                at_s=round(self._at_s, 6),
                duration_s=round(now_s - self._at_s, 6),
                method=request.method,
                path=request.path,
                model=self._asked.model,
                prompt=prompt_tag(self._asked.prompt) if self._asked.prompt else "",
                stream=self._asked.stream,
                retry=int(retry[:6]) if retry.isdecimal() else 0,
                faults=self._faults,
                status=self._status,
                bytes_sent=self._bytes,
                tokens_sent=self._tokens,
                ended=ended,
                left_at_s=round(now_s, 6) if ended is Ended.CLIENT_LEFT else None,
            )
        )
