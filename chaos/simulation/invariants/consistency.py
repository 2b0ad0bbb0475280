"""Consistency: /status and the providers' ledgers count the same as the service's events, to the request and
token.

    rule                   says
    one_agreed_end         /status counts the outcomes and events that were emitted; nothing is in flight at
                           the end
    attempts_counted_once  /status counts the tokens and the cost of the attempts that were reported
    queue_fair_and_timely  at the end no request waits in a queue
    ledger_agrees          each attempt that reached a provider is one line of its ledger, with its status,
                           and each line is one attempt; complete answers were sent in full
"""

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
    "rate_limited",
    *("shared", "handed_over", "renewed", "cache_hit", "cache_stale"),
)
MOVES = {"open": "breaker_opened", "half_open": "breaker_half_opened", "closed": "breaker_closed"}


def check_status(record: RunRecord, status: dict[str, Any]) -> None:
    """Compare the totals of /status with those of the events."""
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
        record.violated(
            "queue_fair_and_timely", f"/status has a queue although no request is open: {status['queue']}"
        )
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
            continue  # the target was never called
        if spent["completion_tokens"] != tokens or not math.isclose(
            spent["cost_usd"] or 0.0, cost_usd, abs_tol=1e-6
        ):
            record.violated(
                "attempts_counted_once",
                f"{counted['name']} {certainty}: /status has {spent}, events {tokens} tokens, {cost_usd} USD",
            )


class LedgerConsistency:
    """Compares the service's attempts with the ledger, which is the truth."""

    def __init__(self, world: World, record: RunRecord) -> None:
        self._world = world
        self._record = record

    def check(self, ledger: Ledger, since: int = 0) -> None:
        """Check that attempts and ledger lines correspond one to one, after the line `since`."""
        lines: dict[tuple[str, str], list[LedgerLine]] = defaultdict(list)
        for line in sorted(ledger.lines(since=since), key=lambda line: line.at_s):
            lines[line.prompt, line.provider].append(line)
        attempts_of: dict[str, dict[str, list[ObservedAttempt]]] = {}  # by question, and by provider
        for request in self._record.requests.values():
            if request.plan.embed:
                continue  # the ledger has no tag of its text
            by_provider = attempts_of.setdefault(request.plan.prompt, {})
            for attempt in request.attempts:
                by_provider.setdefault(attempt.provider, []).append(attempt)
        tags = {prompt_tag(prompt): prompt for prompt in attempts_of}
        for tag, prompt in tags.items():
            for provider, attempts in attempts_of[prompt].items():
                self._compare(attempts, lines.pop((tag, provider), []))
        for (tag, provider), unknown in lines.items():
            if tag in tags:
                self._record.violated(
                    "ledger_agrees",
                    f"{provider} has {len(unknown)} attempts of {tags[tag]!r} that were not sent",
                )

    def _compare(self, attempts: list[ObservedAttempt], lines: list[LedgerLine]) -> None:
        """Compare the attempts for one question at one provider with their ledger lines, both by time."""
        number, provider = attempts[0].number, attempts[0].provider
        reached = [attempt for attempt in attempts if _reached(attempt) is not False]
        certain = [attempt for attempt in reached if _reached(attempt)]
        if not len(certain) <= len(lines) <= len(reached):
            self._record.violated(
                "ledger_agrees",
                f"{provider} has {len(lines)} lines of #{number}, {len(reached)} attempts were sent",
            )
            return
        by_status = Counter(attempt.status for attempt in certain)
        if by_status - Counter(line.status for line in lines):
            self._record.violated(
                "ledger_agrees", f"#{number} at {provider}: the ledger lacks some of {by_status}"
            )
        whole = sum(bool(attempt.reported and attempt.reported.ok) for attempt in attempts)
        words = self._world.provider(provider).words
        if whole > sum(line.status == 200 and line.tokens_sent >= words for line in lines):
            self._record.violated(
                "ledger_agrees",
                f"#{number} has a complete answer of {provider}, which had not sent all of it",
            )


def _reached(attempt: ObservedAttempt) -> bool | None:
    """Say whether an attempt reached the provider's own code; None if the service could not know."""
    if attempt.status is not None:
        return True
    reason = attempt.reported.reason if attempt.reported else ""
    if reason.startswith(("pool_", "resolve_", "connect_")):
        return False
    return None
