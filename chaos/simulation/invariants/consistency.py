"""Whether /status and the providers' ledgers tell the same as the events did, to the request and to the token."""

import math
from collections import Counter, defaultdict
from typing import Any

from dub5.chaos.simulation.invariants.record import Books, Trial
from dub5.chaos.simulation.world.model import World
from dub5.simulators.answers import prompt_tag
from dub5.simulators.ledger import Ledger, Line

COUNTED = (
    *("queued", "shed_full", "shed_overloaded", "shed_expired", "hedged", "budget_spent"),
    *("degraded_stale", "degraded_template", "degraded_words"),
    *("shared", "handed_over", "renewed", "cache_hit", "cache_stale"),
)
MOVES = {"open": "breaker_opened", "half_open": "breaker_half_opened", "closed": "breaker_closed"}


def with_status(books: Books, status: dict[str, Any]) -> None:
    """S1, S11: the totals of /status are those of the events."""
    told = Counter(case.ended.outcome.value for case in books.cases.values() if case.ended)
    if +Counter(status["outcomes"]) != told:
        books.violated("S1", f"/status counts {status['outcomes']}, the events {dict(told)}")
    if status["in_flight"]:
        books.violated("S1", f"/status has {status['in_flight']} in flight")
    for after, name in MOVES.items():
        if status["happened"][name] != books.moves[after]:
            books.violated(
                "S1", f"/status counts {status['happened'][name]} {name}, the events {books.moves[after]}"
            )
    for name in COUNTED:
        if status["happened"][name] != books.told[name]:
            books.violated(
                "S1", f"/status counts {status['happened'][name]} {name}, the events {books.told[name]}"
            )
    if status["queue"]["waiting"] or status["queue"]["lines"]:
        books.violated("S13", f"/status has a line, and nobody asks: {status['queue']}")
    by_target: dict[str, list[Trial]] = defaultdict(list)
    for trial in books.trials():
        by_target[trial.target].append(trial)
    for target in status["targets"]:
        _target(books, target, by_target[target["name"]])


def _target(books: Books, told: dict[str, Any], trials: list[Trial]) -> None:
    attempts = [trial.attempt for trial in trials if trial.attempt is not None]
    answered = sum(attempt.ok for attempt in attempts)
    if told["answered"] != answered:
        books.violated(
            "S1", f"/status has {told['answered']} answers of {told['name']}, the events {answered}"
        )
    for certainty, whole in (("billed", True), ("maybe", False)):
        spent = told.get("spent", {}).get(certainty)
        used = [attempt for attempt in attempts if attempt.ok is whole and attempt.usage]
        tokens = sum(attempt.usage.completion_tokens for attempt in used if attempt.usage)
        cost_usd = math.fsum(attempt.cost_usd or 0.0 for attempt in used)
        if spent is None:
            continue  # nothing was ever asked there
        if spent["completion_tokens"] != tokens or not math.isclose(
            spent["cost_usd"] or 0.0, cost_usd, abs_tol=1e-6
        ):
            books.violated(
                "S11",
                f"{told['name']} {certainty}: /status has {spent}, tries {tokens} tokens, {cost_usd} USD",
            )


class WithLedger:
    """The service's tries against the ledger, which is the truth."""

    def __init__(self, world: World, books: Books) -> None:
        self._world = world
        self._books = books

    def check(self, ledger: Ledger) -> None:
        """Each try that reached a provider is one line there, and each line is one try."""
        lines: dict[tuple[str, str], list[Line]] = defaultdict(list)
        for line in sorted(ledger.lines(), key=lambda line: line.at_s):
            lines[line.prompt, line.provider].append(line)
        tries: dict[str, dict[str, list[Trial]]] = {}  # by question, and by provider
        for case in self._books.cases.values():
            by_provider = tries.setdefault(case.ask.prompt, {})
            for trial in case.trials:
                by_provider.setdefault(trial.provider, []).append(trial)
        tags = {prompt_tag(prompt): prompt for prompt in tries}
        for tag, prompt in tags.items():
            for provider, trials in tries[prompt].items():
                self._pair(trials, lines.pop((tag, provider), []))
        for (tag, provider), rest in lines.items():
            if tag in tags:
                self._books.violated(
                    "ledger", f"{provider} has {len(rest)} tries of {tags[tag]!r} unknown to us"
                )

    def _pair(self, trials: list[Trial], lines: list[Line]) -> None:
        """Tries for one question at one provider, with their lines, both by time."""
        number, provider = trials[0].number, trials[0].provider
        reached = [t for t in trials if _reached(t) is not False]
        sure = [t for t in reached if _reached(t)]
        if not len(sure) <= len(lines) <= len(reached):
            self._books.violated(
                "ledger", f"{provider} has {len(lines)} lines of #{number}, we made {len(reached)} tries"
            )
            return
        by_status = Counter(trial.status for trial in sure)
        if by_status - Counter(line.status for line in lines):
            self._books.violated(
                "ledger", f"#{number} at {provider}: {by_status} is not what the ledger says"
            )
        whole = sum(bool(trial.attempt and trial.attempt.ok) for trial in trials)
        words = self._world.provider(provider).words
        if whole > sum(line.status == 200 and line.tokens_sent >= words for line in lines):
            self._books.violated(
                "ledger", f"#{number} was answered by {provider}, which had not said all of it"
            )


def _reached(trial: Trial) -> bool | None:
    """Whether it came as far as the provider's own code; None: the service could not know."""
    if trial.status is not None:
        return True
    reason = trial.attempt.reason if trial.attempt else ""
    if reason.startswith(("pool_", "resolve_", "connect_")):
        return False
    return None
