"""Key watch: asks each provider now and then whether it takes each of its keys, before a request finds out.

    key --GET models--> finding_of(status) --> valid | refused | it says nothing --> KeyState.note_check

The question costs no tokens. It goes over the wire alone: no breaker, limit or retry knows of it. Only words
about the key count: a 401, or an error that names the account. A 403 may be of the list alone (a key may be
restricted), other statuses and lost connections are of the provider. A list that anybody may read proves
nothing.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from random import Random

from dub5.service import clock
from dub5.service.config.options import KeysOptions
from dub5.service.events import Events, KeyChecked, crash_of
from dub5.service.failover.body import ResponseBody
from dub5.service.providers.base import Dialect, ProviderFault
from dub5.service.resilience.classify import KEY_COOL_S, UNPROVEN, classify, names_account
from dub5.service.resilience.provider_keys import KeyState, KeyVerdict
from dub5.service.timeouts import wait_at_most
from dub5.service.wire.base import Wire, WireFailure, WireRequest

LIMIT_S = 10.0  # of one question
FIRST_S = 60.0  # the first questions are spread over this time
AGAIN_S = KEY_COOL_S  # until a refused key is asked for again; doubled each time, up to check_s
CONFIRM_S = 1.0  # until a check looks into what a call has met
CONFIRM_EVERY_S = 60.0
OK = 200


class KeyFinding(Enum):
    """What the answer to a question says of the key."""

    VALID = auto()
    REFUSED = auto()
    NOTHING = auto()


@dataclass(frozen=True, slots=True)
class ModelList:
    """Where a provider lists its models."""

    dialect: Dialect
    base_url: str

    def request(self, key: str | None) -> WireRequest:
        """Return the question whether the provider takes this key; None: whether it wants one at all."""
        headers = {name: value for name, value in self.dialect.headers(key).items() if name != "content-type"}
        return WireRequest("GET", self.base_url + self.dialect.models_path, headers, b"")


def finding_of(status: int, fault: ProviderFault | None) -> KeyFinding:
    """Return what a status says of the key. `fault`: what the dialect makes of one other than 200."""
    if status == OK:
        return KeyFinding.VALID
    if fault is None or not classify(fault).refuses_key:
        return KeyFinding.NOTHING
    if status in UNPROVEN and not names_account(fault):
        return KeyFinding.NOTHING  # of the list, as far as is known; a call will tell
    return KeyFinding.REFUSED


def next_check_s(check_s: float, refusals: int, rng: Random) -> float:
    """Return the seconds until the next question, after so many refusals in a row."""
    wait_s = check_s if not refusals else min(check_s, AGAIN_S * 2.0 ** min(refusals - 1, 20))
    return wait_s * rng.uniform(0.9, 1.1)


class KeyWatch:
    """Watches the keys of one runtime. A defect of ours ends the watch of one key, and is reported."""

    def __init__(
        self,
        wire: Wire,
        lists: Mapping[str, ModelList],
        keys: Iterable[KeyState],
        options: KeysOptions,
        events: Events,
        rng: Random,
    ) -> None:
        self._wire = wire
        self._lists = lists
        self._keys = keys
        self._options = options
        self._events = events
        self._rng = rng
        self._tasks: set[asyncio.Task[None]] = set()
        self._public: dict[str, bool] = {}  # providers of which it is known whether anybody may read the list

    async def run(self) -> None:
        """Run until cancelled; then end the questions that are out."""
        if not self._options.check_s:
            return
        try:
            for key in self._keys:
                if key.secret is not None and key.provider in self._lists:
                    task = asyncio.create_task(self._watch(key), name=f"key watch {key.label}")
                    self._tasks.add(task)
                    task.add_done_callback(self._on_end)
            await asyncio.Event().wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._events.emit(crash_of(error, "key watch"))

    async def _watch(self, key: KeyState) -> None:
        check_s, refusals, asked_s = self._options.check_s, 0, float("-inf")
        wake = asyncio.Event()
        key.on_refused = wake.set
        # A reload begins the watch anew: a key that was asked for lately is not asked for again at once.
        due_s = clock.now() + self._rng.uniform(0.0, min(FIRST_S, check_s))
        if key.checked_at_s is not None:
            due_s = max(due_s, key.checked_at_s + next_check_s(check_s, 0, self._rng))
        while True:
            if await wait_at_most(wake, due_s - clock.now()):
                await asyncio.sleep(max(CONFIRM_S, asked_s + CONFIRM_EVERY_S - clock.now()))
            wake.clear()
            asked_s = clock.now()
            finding = await self._ask(key)
            now_s = clock.now()
            refusals = refusals + 1 if finding is KeyFinding.REFUSED else 0
            wait_s = next_check_s(check_s, refusals, self._rng)
            if finding is not KeyFinding.NOTHING:
                # It rests until it was asked for again, and a little longer; never for ever.
                rest_until_s = now_s + wait_s + 2 * LIMIT_S
                key.note_check(refused=finding is KeyFinding.REFUSED, now_s=now_s, rest_until_s=rest_until_s)
            due_s = now_s + wait_s

    async def _ask(self, key: KeyState) -> KeyFinding:
        assert key.secret is not None, "only keys are watched"
        finding = await self._finding(key.provider, key.secret.reveal())
        if finding is KeyFinding.VALID and await self._is_public(key.provider):
            finding = KeyFinding.NOTHING
        key.checked_at_s = clock.now()
        verdict = {KeyFinding.VALID: KeyVerdict.VALID, KeyFinding.REFUSED: KeyVerdict.REFUSED}
        self._events.emit(KeyChecked(key.provider, key.label, verdict.get(finding, KeyVerdict.UNKNOWN)))
        return finding

    async def _is_public(self, provider: str) -> bool:
        """Return whether the list is there without a key, which is asked once."""
        if provider not in self._public:
            finding = await self._finding(provider, None)
            if finding is KeyFinding.NOTHING:
                return False  # not told: it is asked again next time
            self._public[provider] = finding is KeyFinding.VALID
        return self._public[provider]

    async def _finding(self, provider: str, key: str | None) -> KeyFinding:
        models = self._lists[provider]
        try:
            async with asyncio.timeout(LIMIT_S):
                response = await self._wire.send(models.request(key))
                try:
                    fault = None
                    if response.status != OK:
                        body = await ResponseBody(response).beginning()
                        fault = models.dialect.fault(response.status, response.headers, body)
                    return finding_of(response.status, fault)
                finally:
                    await response.aclose()
        except (TimeoutError, WireFailure):
            return KeyFinding.NOTHING
