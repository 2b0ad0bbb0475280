"""Whether /status and the providers' ledgers tell the same as the events did, to the request and to the token."""

import math
from collections import Counter, defaultdict
from typing import Any

from dub5.chaos.simulation.invariants.record import ObservedAttempt, RunRecord
from dub5.chaos.simulation.world.model import World
from dub5.simulators.answers import prompt_tag
from dub5.simulators.ledger import Ledger, LedgerLine

COUNTED = (
    *("queued", "shed_full", "shed_overloaded", "shed_expired", "hedged", "budget_spent"),
    *("degraded_stale", "degraded_template", "degraded_words"),
    *("shared", "handed_over", "renewed", "cache_hit", "cache_stale"),
)
MOVES = {"open": "breaker_opened", "half_open": "breaker_half_opened", "closed": "breaker_closed"}


def check_status(record: RunRecord, status: dict[str, Any]) -> None:
    """`one_agreed_end`, `attempts_counted_once`: the totals of /status are those of the events."""
    counted = Counter(request.ended.outcome.value for request in record.requests.values() if request.ended)
    if +Counter(status["outcomes"]) != counted:
        record.violated("one_agreed_end", f"/status counts {status['outcomes']}, the events {dict(counted)}")
    if status["in_flight"]:
        record.violated("one_agreed_end", f"/status has {status['in_flight']} in flight")
    for after, name in MOVES.items():
        if status["happened"][name] != record.breaker_moves[after]:
            record.violated(
                "one_agreed_end",
                f"/status counts {status['happened'][name]} {name}, the events {record.breaker_moves[after]}",
            )
    for name in COUNTED:
        if status["happened"][name] != record.happened[name]:
            record.violated(
                "one_agreed_end",
                f"/status counts {status['happened'][name]} {name}, the events {record.happened[name]}",
            )
    if status["queue"]["waiting"] or status["queue"]["lines"]:
        record.violated("queue_fair_and_timely", f"/status has a line, and nobody asks: {status['queue']}")
    by_target: dict[str, list[ObservedAttempt]] = defaultdict(list)
    for attempt in record.attempts():
        by_target[attempt.target].append(attempt)
    for target in status["targets"]:
        _check_target(record, target, by_target[target["name"]])


def _check_target(record: RunRecord, counted: dict[str, Any], attempts: list[ObservedAttempt]) -> None:
    reports = [attempt.reported for attempt in attempts if attempt.reported is not None]
    answered = sum(reported.ok for reported in reports)
    if counted["answered"] != answered:
        record.violated(
            "one_agreed_end",
            f"/status has {counted['answered']} answers of {counted['name']}, the events {answered}",
        )
    for certainty, whole in (("billed", True), ("maybe", False)):
        spent = counted.get("spent", {}).get(certainty)
        used = [reported for reported in reports if reported.ok is whole and reported.usage]
        tokens = sum(reported.usage.completion_tokens for reported in used if reported.usage)
        cost_usd = math.fsum(reported.cost_usd or 0.0 for reported in used)
        if spent is None:
            continue  # nothing was ever asked there
        if spent["completion_tokens"] != tokens or not math.isclose(
            spent["cost_usd"] or 0.0, cost_usd, abs_tol=1e-6
        ):
            record.violated(
                "attempts_counted_once",
                f"{counted['name']} {certainty}: /status has {spent}, tries {tokens} tokens, {cost_usd} USD",
            )


class LedgerConsistency:
    """The service's tries against the ledger, which is the truth."""

    def __init__(self, world: World, record: RunRecord) -> None:
        self._world = world
        self._record = record

    def check(self, ledger: Ledger) -> None:
        """Each try that reached a provider is one line there, and each line is one try."""
        lines: dict[tuple[str, str], list[LedgerLine]] = defaultdict(list)
        for line in sorted(ledger.lines(), key=lambda line: line.at_s):
            lines[line.prompt, line.provider].append(line)
        tries: dict[str, dict[str, list[ObservedAttempt]]] = {}  # by question, and by provider
        for request in self._record.requests.values():
            by_provider = tries.setdefault(request.plan.prompt, {})
            for attempt in request.attempts:
                by_provider.setdefault(attempt.provider, []).append(attempt)
        tags = {prompt_tag(prompt): prompt for prompt in tries}
        for tag, prompt in tags.items():
            for provider, attempts in tries[prompt].items():
                self._compare(attempts, lines.pop((tag, provider), []))
        for (tag, provider), rest in lines.items():
            if tag in tags:
                self._record.violated(
                    "ledger_agrees", f"{provider} has {len(rest)} tries of {tags[tag]!r} unknown to us"
                )

    def _compare(self, attempts: list[ObservedAttempt], lines: list[LedgerLine]) -> None:
        """Tries for one question at one provider, with their lines, both by time."""
        number, provider = attempts[0].number, attempts[0].provider
        reached = [t for t in attempts if _reached(t) is not False]
        sure = [t for t in reached if _reached(t)]
        if not len(sure) <= len(lines) <= len(reached):
            self._record.violated(
                "ledger_agrees",
                f"{provider} has {len(lines)} lines of #{number}, we made {len(reached)} tries",
            )
            return
        by_status = Counter(attempt.status for attempt in sure)
        if by_status - Counter(line.status for line in lines):
            self._record.violated(
                "ledger_agrees", f"#{number} at {provider}: {by_status} is not what the ledger says"
            )
        whole = sum(bool(attempt.reported and attempt.reported.ok) for attempt in attempts)
        words = self._world.provider(provider).words
        if whole > sum(line.status == 200 and line.tokens_sent >= words for line in lines):
            self._record.violated(
                "ledger_agrees", f"#{number} was answered by {provider}, which had not said all of it"
            )


def _reached(attempt: ObservedAttempt) -> bool | None:
    """Whether it came as far as the provider's own code; None: the service could not know."""
    if attempt.status is not None:
        return True
    reason = attempt.reported.reason if attempt.reported else ""
    if reason.startswith(("pool_", "resolve_", "connect_")):
        return False
    return None
