"""Metrics of requests and attempts, which each request pays for. Events wait, and are counted many at once.

    event --its kind--> waiting --(WAITING_MAX wait, or somebody reads)--> counters, histograms

What the events of one kind have in common is looked up once for all that wait: names, labels, what counts at
all. Of each only the numbers are read. Counted one by one, a request cost three times as much.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from dub5.service.errors import Overloaded
from dub5.service.events import AttemptEnded, RequestEnded
from dub5.service.model import ChatRequest, Outcome
from dub5.service.telemetry import names
from dub5.service.telemetry.attempt_views import OK, STOPPED, failed_over
from dub5.service.telemetry.costs import CostCounters
from dub5.service.telemetry.degradation import RouteTotals
from dub5.service.telemetry.event_tables import KnownNames, Labels
from dub5.service.telemetry.histogram import Histogram
from dub5.service.telemetry.names import OTHER, Metric

WAITING_MAX = 100  # events of all kinds; to count them takes about 0.2 ms
BOOLEAN_LABELS = {True: "true", False: "false"}
UNKNOWN = (OTHER, OTHER)
FAILED = "failed"  # error.type of an attempt's duration; a histogram per reason would make scrapes slow


class RequestMetrics:
    """Counters and histograms of requests and attempts. Before they are read, call `count_waiting`."""

    def __init__(
        self,
        known: KnownNames,
        counter: Callable[[Metric], defaultdict[Labels, float]],
        histogram: Callable[[Metric], Histogram],
    ) -> None:
        self._known = known
        self._waiting = 0
        self._waiting_requests: defaultdict[tuple[object, ...], list[RequestEnded]] = defaultdict(list)
        self._waiting_attempts: defaultdict[tuple[str, ...], list[AttemptEnded]] = defaultdict(list)
        self._cost_counters: defaultdict[str, CostCounters] = defaultdict(CostCounters)  # by target
        self._requests = counter(names.REQUESTS)
        self._errors = counter(names.ERRORS)
        self._failovers = counter(names.FAILOVERS)
        self._degraded = counter(names.DEGRADED)
        self._attempts = counter(names.ATTEMPTS)
        self._passed_over = counter(names.PASSED_OVER)
        self._duration = histogram(names.DURATION)
        self._first_token = histogram(names.FIRST_TOKEN)
        self._per_token = histogram(names.PER_TOKEN)
        self._overhead = histogram(names.OVERHEAD)
        self._attempt_duration = histogram(names.ATTEMPT_DURATION)
        self._first_chunk = histogram(names.FIRST_CHUNK)
        self._token_usage = histogram(names.TOKEN_USAGE)

    def note_attempt(self, event: AttemptEnded) -> None:
        """Let an attempt wait until it is counted."""
        attempt = event.attempt
        kind = event.operation, attempt.target, attempt.reason, attempt.kind
        self._waiting_attempts[kind].append(event)
        self._waiting += 1
        if self._waiting >= WAITING_MAX:
            self.count_waiting()

    def note_request(self, event: RequestEnded) -> None:
        """Let a request wait until it is counted."""
        kind = (
            event.route,
            event.operation,
            event.outcome,
            event.code,
            event.target,
            event.stream,
            event.cached,
            event.shared,
            event.degraded,
        )
        self._waiting_requests[kind].append(event)
        self._waiting += 1
        if self._waiting >= WAITING_MAX:
            self.count_waiting()

    def count_waiting(self) -> None:
        """Count what waits."""
        self._waiting = 0
        for attempts in self._waiting_attempts.values():
            self._count_attempts(attempts)
        for requests in self._waiting_requests.values():
            self._count_requests(requests)
        self._waiting_attempts.clear()
        self._waiting_requests.clear()

    def route_totals(self) -> dict[str, RouteTotals]:
        """Return what each route of the settings has done since the start, as degradation.py looks at it."""
        self.count_waiting()
        return {
            route: RouteTotals(
                self._requests_of(route, Outcome.COMPLETE),
                self._requests_of(route, Outcome.FAILED, Outcome.CUT, Outcome.DEGRADED)
                + self._errors.get((route, Overloaded.code), 0),  # refused, and no fault of the client
                self._first_token.counts((route, BOOLEAN_LABELS[False])),
            )
            for route in self._known.routes
        }

    def read_tokens(self) -> Iterator[tuple[Labels, float]]:
        """Return the tokens of all attempts."""
        for target, costs in self._cost_counters.items():
            for certainty, totals in costs.by_certainty():
                yield (target, "input", certainty), totals.prompt_tokens
                yield (target, "output", certainty), totals.completion_tokens

    def read_costs(self) -> Iterator[tuple[Labels, float]]:
        """Return the dollars of all attempts that have a price."""
        for target, costs in self._cost_counters.items():
            for certainty, totals in costs.by_certainty():
                if totals.cost_usd is not None:
                    yield (target, certainty), totals.cost_usd

    def _requests_of(self, route: str, *outcomes: Outcome) -> float:
        labels = ((route, outcome, stream) for outcome in outcomes for stream in BOOLEAN_LABELS.values())
        return sum(self._requests.get(each, 0) for each in labels)

    def _count_attempts(self, events: list[AttemptEnded]) -> None:
        """Count attempts of one kind."""
        event, attempts = events[0], [event.attempt for event in events]
        attempt = attempts[0]
        target = self._known.scope(attempt.target)
        kind = attempt.kind if attempt.kind in names.ATTEMPT_KINDS else OTHER
        self._attempts[target, names.reason_label(attempt.reason), kind] += len(events)
        for each in attempts:
            if each.usage is not None:
                self._cost_counters[target].note(each)
        if attempt.reason not in STOPPED:
            labels = self._labels(event, attempt.target, "" if attempt.reason == OK else FAILED)
            self._attempt_duration.record_all([each.ended_s - each.started_s for each in attempts], labels)

    def _count_requests(self, events: list[RequestEnded]) -> None:
        """Count requests of one kind."""
        event = events[0]
        route, outcome = self._known.route(event.route), event.outcome
        self._requests[route, outcome, BOOLEAN_LABELS[event.stream]] += len(events)
        if event.code is not None:
            self._errors[route, event.code if event.code in names.CODES else OTHER] += len(events)
        if outcome is Outcome.DEGRADED and event.degraded is not None:
            self._degraded[route, event.degraded] += len(events)
        for each in events:
            if len(each.attempts) != 1 or not each.attempts[0].tried:
                self._count_trail(each, route)
        self._duration.record_all([each.total_s for each in events], (route, outcome))
        told = [each for each in events if each.first_token_s is not None]
        self._overhead.record_all([each.overhead_s for each in told], (route,))
        if event.stream:
            self._count_first_chunks(events)
            self._count_streams(told, route)
        if event.target is not None and not (event.cached or event.shared):
            self._count_tokens(events, event.target)

    def _count_trail(self, event: RequestEnded, route: str) -> None:
        """Count what the attempts of one request were to each other."""
        if len(event.attempts) > 1 and failed_over(event):
            self._failovers[route,] += 1
        for attempt in () if event.shared else event.attempts:
            if not attempt.tried:
                target = self._known.scope(attempt.target)
                self._passed_over[target, names.reason_label(attempt.reason)] += 1

    def _count_first_chunks(self, events: list[RequestEnded]) -> None:
        by_target: defaultdict[str, list[float]] = defaultdict(list)
        for event in () if events[0].shared else events:
            for attempt in event.attempts:
                if attempt.first_token_s is not None:
                    by_target[attempt.target].append(attempt.first_token_s - attempt.started_s)
        for target, took_s in by_target.items():
            self._first_chunk.record_all(took_s, self._labels(events[0], target)[:3])

    def _count_streams(self, events: list[RequestEnded], route: str) -> None:
        """Count streams of one kind that have begun."""
        if not events or events[0].outcome is Outcome.DEGRADED:
            return  # a fallback answer has no first token
        event = events[0]
        first_s = [each.first_token_s for each in events if each.first_token_s is not None]
        self._first_token.record_all([*first_s], (route, BOOLEAN_LABELS[event.cached]))
        if event.outcome is Outcome.COMPLETE and not (event.cached or event.shared):
            per_token_s = [
                (each.total_s - began_s) / (each.usage.completion_tokens - 1)
                for each, began_s in zip(events, first_s, strict=True)
                if each.usage is not None and each.usage.completion_tokens > 1
            ]
            self._per_token.record_all(per_token_s, (route,))

    def _count_tokens(self, events: list[RequestEnded], target: str) -> None:
        used = [each.usage for each in events if each.usage is not None]
        prompts: list[float] = [usage.prompt_tokens for usage in used]
        self._token_usage.record_all(prompts, self._labels(events[0], target, "input"))
        if events[0].operation == ChatRequest.operation:  # no other operation has output tokens
            completions: list[float] = [usage.completion_tokens for usage in used]
            self._token_usage.record_all(completions, self._labels(events[0], target, "output"))

    def _labels(self, event: AttemptEnded | RequestEnded, target: str, last: str = "") -> Labels:
        provider, model = self._known.targets.get(target, UNKNOWN)
        return event.operation, provider, model, last

    METHODS: ClassVar[Mapping[type, Callable[["RequestMetrics", Any], None]]] = {
        AttemptEnded: note_attempt,
        RequestEnded: note_request,
    }
