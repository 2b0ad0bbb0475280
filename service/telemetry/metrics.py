"""Metrics: counts events and renders the sums as Prometheus text. Subscribe `count`, call `scrape()`.

    event --count--> plain integers --(on scrape)--> OpenTelemetry --> Prometheus text

Requests and attempts, which each request pays for, wait to be counted together: request_metrics.py.
An OpenTelemetry call costs 10 us, a dictionary 0.2, so the request path calls no OpenTelemetry. Observable
instruments read counters and gauges. OpenTelemetry cannot observe histograms, so these join its data as
finished points.
"""

# A MeterProvider starts threads in a process that uvloop forks, before the new program runs. The fork holds
# their lock, and a handler that this import registers gives it back: it must come before the provider's.
import concurrent.futures.thread  # noqa: F401
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry, generate_latest

from dub5.service import clock
from dub5.service.events import (
    DocumentRead,
    DrainBegan,
    EventHandlers,
    JobStepEnded,
    QueueLeft,
    ResumedFrom,
    RouteMeasure,
    SecurityKind,
    StatementEnded,
    WritesForgotten,
    methods_of,
)
from dub5.service.model import Outcome, Target
from dub5.service.resilience.health import TargetSnapshot
from dub5.service.telemetry import names, process
from dub5.service.telemetry.degradation import RouteTotals
from dub5.service.telemetry.event_tables import COUNTS, CountRule, KnownNames, Labels
from dub5.service.telemetry.histogram import Histogram
from dub5.service.telemetry.host import HostUsage, read_host
from dub5.service.telemetry.names import Metric, MetricKind
from dub5.service.telemetry.process_watch import GENERATIONS, ProcessWatch
from dub5.service.telemetry.request_metrics import BOOLEAN_LABELS, RequestMetrics

# Of no chat request: Python reads an object of 30 attributes or more slowly, and each request would pay.
RARELY = (names.STORE_DURATION, names.DOCUMENT_READ, names.JOB_STEP_DURATION, names.LOOP_LAG, names.GC_PAUSE)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ReadValues = Callable[[], Iterable[tuple[Labels, float]]]


class HistogramReader(PrometheusMetricReader):
    """A reader that adds our histograms to OpenTelemetry's collected data."""

    def __init__(self, registry: CollectorRegistry, histograms: Sequence[Histogram]) -> None:
        super().__init__(scope_info_enabled=False, registry=registry)
        self._histograms = histograms

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any
    ) -> None:
        collected = metrics_data.resource_metrics[0]
        at_ns = int(clock.wall() * 1e9)
        our_metrics = [histogram.collect(at_ns) for histogram in self._histograms]
        our_scope = ScopeMetrics(InstrumentationScope("dub5"), our_metrics, names.SCHEMA_URL)
        all_metrics = ResourceMetrics(
            collected.resource, [*collected.scope_metrics, our_scope], collected.schema_url
        )
        super()._receive_metrics(MetricsData([all_metrics]), timeout_millis, **more)


class Metrics:
    """A subscriber of all events that renders the text for Prometheus.

    `routes`, `targets` and `hosts` are all that the settings name; nothing else becomes a label. Each scrape
    calls `in_flight`, `waiting` and `states`, and calls `states` once and first, since reading health may
    emit a change.
    """

    def __init__(
        self,
        *,
        version: str,
        routes: Iterable[str],
        targets: Iterable[Target],
        hosts: Iterable[str],
        in_flight: Callable[[], int],
        waiting: Callable[[], int],
        states: Callable[[], Sequence[TargetSnapshot]],
    ) -> None:
        self._known = KnownNames()
        self._histograms: list[Histogram] = []
        self._registry = CollectorRegistry()
        self._meter_provider = MeterProvider(
            metric_readers=[HistogramReader(self._registry, self._histograms)],
            resource=Resource({"service.name": "dub5", "service.version": version}),
            shutdown_on_exit=False,
        )
        self._meter = self._meter_provider.get_meter("dub5", version, names.SCHEMA_URL)
        self._draining = 0
        self._has_store = False
        self._states = states
        self._scraped: tuple[Sequence[TargetSnapshot], HostUsage] = (), HostUsage()  # at this scrape
        self._of_requests = RequestMetrics(self._known, self._counter, self._histogram)
        self._make_counters()
        self.add_labels(routes, targets, hosts)
        self._make_histograms()
        self._make_gauges(in_flight)
        self._observe(names.QUEUE_WAITING, lambda: [((), waiting())])
        self._observe(names.TOKENS_SPENT, self._of_requests.read_tokens)
        self._observe(names.COST, self._of_requests.read_costs)
        self.count = EventHandlers(
            {kind: self._adder(rule) for kind, rule in COUNTS.items()}
            | methods_of(self, self.METHODS)
            | methods_of(self._of_requests, RequestMetrics.METHODS)
        )

    def add_labels(self, routes: Iterable[str], targets: Iterable[Target], hosts: Iterable[str]) -> None:
        """Add the names of new settings. Old names stay: requests to them may still be in flight."""
        self._of_requests.count_waiting()  # by the names of their time
        self._known.add(routes, targets, hosts)
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        """Create counters at zero: a counter that begins at one has no rate for its first event."""
        self._counters[names.CRASHES][()] += 0
        self._counters[names.RATE_LIMIT_LOCAL][()] += 0
        for by in ("session", "caller", "ip"):
            for blocked in BOOLEAN_LABELS.values():
                self._counters[names.RATE_LIMITED][by, blocked] += 0
        for route in self._known.routes:
            for what in ("joined", "handed_over", "renewed"):
                self._counters[names.SHARED][route, what] += 0
            if self._has_store:
                self._counters[names.HISTORY_PRUNED][route,] += 0
                for kept in BOOLEAN_LABELS.values():
                    self._counters[names.TURNS][route, Outcome.COMPLETE, kept] += 0
        for kind in SecurityKind:
            self._counters[names.SECURITY_EVENTS][kind,] += 0
        for result in ("applied", "refused"):
            self._counters[names.RELOADS][result,] += 0
        for provider in self._known.providers:
            self._counters[names.RETRIES_DENIED][provider,] += 0
            self._counters[names.LIMIT_LOWERED][provider,] += 0
            for verdict in ("valid", "refused"):
                self._counters[names.KEY_CHANGES][provider, verdict] += 0
        for target in self._known.targets:
            for value in ("up", "down") if self._has_store else ():
                self._counters[names.FEEDBACK]["answer", value, target] += 0
            for why in sorted(names.HEDGE_REASONS):
                self._counters[names.HEDGES][target, why] += 0
            for after in names.HEALTH_LEVEL:
                self._counters[names.HEALTH_CHANGES][target, after] += 0

    def _make_counters(self) -> None:
        self._queue = self._counter(names.QUEUE)
        self._forgotten = self._counter(names.STORE_FORGOTTEN)
        self._counters = {metric: self._counter(metric) for metric, _ in COUNTS.values()}

    def _make_histograms(self) -> None:
        self._queue_wait = self._histogram(names.QUEUE_WAIT)
        self._rarely = {metric: self._histogram(metric) for metric in RARELY}

    def _make_gauges(self, in_flight: Callable[[], int]) -> None:
        def per_target(value: Callable[[TargetSnapshot], float]) -> ReadValues:
            return lambda: [((state.name,), value(state)) for state in self._scraped[0]]

        def per_provider(value: Callable[[TargetSnapshot], float]) -> ReadValues:
            return lambda: {(state.provider,): value(state) for state in self._scraped[0]}.items()

        self._observe(names.IN_FLIGHT, lambda: [((), in_flight())])
        self._observe(names.DRAINING, lambda: [((), self._draining)])
        self._observe(names.BREAKER_STATE, per_target(lambda state: names.BREAKER_LEVEL[state.breaker]))
        self._observe(names.TARGET_HEALTH, per_target(lambda state: names.HEALTH_LEVEL[state.health]))
        self._observe(names.TARGET_IN_FLIGHT, per_target(lambda state: state.in_flight))
        self._observe(names.PROVIDER_LIMIT, per_provider(lambda state: state.limit))
        self._observe(names.PROVIDER_IN_FLIGHT, per_provider(lambda state: state.provider_in_flight))
        self._observe(names.CPU, lambda: [((), process.cpu_s())])
        self._observe(names.MEMORY, lambda: [((), process.memory_bytes())])
        self._observe(names.DESCRIPTORS, lambda: [((), process.descriptors())])
        self._make_host_gauges()

    def _make_host_gauges(self) -> None:
        def known(value: float | None, *labels: str) -> list[tuple[Labels, float]]:
            return [] if value is None else [(labels, value)]

        def host() -> HostUsage:
            return self._scraped[1]

        self._observe(names.DESCRIPTORS_MAX, lambda: known(process.descriptors_max()))
        self._observe(names.MEMORY_USED, lambda: known(host().memory_bytes, host().memory_source))
        self._observe(names.MEMORY_LIMIT, lambda: known(host().memory_limit_bytes, host().memory_source))
        self._observe(names.CPU_LIMIT, lambda: known(host().cpus, host().cpu_source))
        self._observe(names.CPU_THROTTLED, lambda: known(host().throttled_s))
        self._observe(names.HOST_LOAD, lambda: known(host().load))

    def _counter(self, metric: Metric) -> defaultdict[Labels, float]:
        counter: defaultdict[Labels, float] = defaultdict(int)
        self._observe(metric, counter.items)
        return counter

    def _histogram(self, metric: Metric) -> Histogram:
        histogram = Histogram(metric)
        self._histograms.append(histogram)
        return histogram

    def _observe(self, metric: Metric, read: ReadValues) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [
                Observation(value, dict(zip(metric.labels, labels, strict=True))) for labels, value in read()
            ]

        if metric.kind is MetricKind.COUNTER:
            self._meter.create_observable_counter(metric.name, [observe], metric.unit, metric.help)
        else:
            self._meter.create_observable_gauge(metric.name, [observe], metric.unit, metric.help)

    def _adder(self, rule: CountRule) -> Callable[[Any], None]:
        """Return what adds one to the counter of an event."""
        counter, labels, known = self._counters[rule.metric], rule.labels, self._known

        def add_one(event: Any) -> None:
            counter[labels(event, known)] += 1

        return add_one

    def _drain_began(self, event: DrainBegan) -> None:
        self._draining = 1

    def _statement_ended(self, event: StatementEnded) -> None:
        self._rarely[names.STORE_DURATION].record(event.took_s, (event.statement, event.result))

    def _document_read(self, event: DocumentRead) -> None:
        self._rarely[names.DOCUMENT_READ].record(event.took_s, (event.kind or "none", event.result))

    def _writes_forgotten(self, event: WritesForgotten) -> None:
        self._forgotten[()] += event.count

    def observe_store(
        self,
        outbox: Callable[[], int],
        ready: Callable[[], bool],
        pool: Callable[[], Mapping[str, int] | None],
        turns_live: Callable[[], int],
        room: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Read the state of the store and of its turns at each scrape; without one, there is none."""
        self._has_store = True  # there are conversations, and counters of theirs begin at zero
        self._forgotten[()] += 0  # a counter that begins at one has no rate for its first event
        for source in ResumedFrom:
            self._counters[names.TURNS_RESUMED][source,] += 0
        self._observe(names.STORE_OUTBOX, lambda: [((), outbox())])
        self._observe(names.STORE_READY, lambda: [((), ready())])
        self._observe(names.TURNS_LIVE, lambda: [((), turns_live())])
        self._observe(names.STORE_ROOM, lambda: [((), free)] if (free := room()) is not None else [])
        self._observe(
            names.STORE_POOL, lambda: [((state,), count) for state, count in (pool() or {}).items()]
        )

    def watch_process(self, watch: ProcessWatch) -> None:
        """Begin to watch the process; what it notes has its series from the beginning."""
        self._rarely[names.LOOP_LAG].start(())
        for generation in GENERATIONS:
            self._rarely[names.GC_PAUSE].start((str(generation),))
        watch.start(self.note_loop_lag, self.note_gc_pause)

    def note_loop_lag(self, lag_s: float) -> None:
        """Note how late a timer came."""
        self._rarely[names.LOOP_LAG].record(lag_s, ())

    def note_gc_pause(self, generation: int, pause_s: float) -> None:
        """Note how long a garbage collection took."""
        self._rarely[names.GC_PAUSE].record(pause_s, (str(generation),))

    def observe_connections(self, count: Callable[[], int]) -> None:
        """Read the number of connections at each scrape; only our own server knows it."""
        self._observe(names.CONNECTIONS, lambda: [((), count())])

    def observe_problems(
        self,
        problems: Callable[[], Mapping[str, int]],
        degraded: Callable[[], Iterable[tuple[str, str]]],
    ) -> None:
        """Read the problems by state, and the degraded routes with what is worse, at each scrape."""
        self._observe(names.PROBLEMS, lambda: [((state,), count) for state, count in problems().items()])
        self._observe(names.ROUTE_DEGRADED, lambda: self._read_degraded(set(degraded())))

    def expect_notifications(self, to: str, kinds: Iterable[str]) -> None:
        """Let the counters of messages to a receiver begin at zero."""
        for kind in kinds:
            for result in ("sent", "failed", "dropped"):
                self._counters[names.NOTIFICATIONS][to, kind, result] += 0

    def _read_degraded(self, degraded: set[tuple[str, str]]) -> list[tuple[Labels, float]]:
        return [
            ((route, what), float((route, what) in degraded))
            for route in sorted(self._known.routes)
            for what in RouteMeasure
        ]

    def route_totals(self) -> dict[str, RouteTotals]:
        """Return what each route of the settings has done since the start, as degradation.py looks at it."""
        return self._of_requests.route_totals()

    def observe_keys(
        self, rows: Callable[[], list[dict[str, Any]]], cost: Callable[[], Iterable[tuple[Labels, float]]]
    ) -> None:
        """Read the rows of /status about the providers' keys, and what each has cost, at each scrape."""
        self._observe(
            names.KEY_STATE,
            lambda: [((row["provider"], row["key"]), names.KEY_LEVEL[row["state"]]) for row in rows()],
        )
        self._observe(
            names.KEY_QUOTA_LEFT,
            lambda: [
                ((row["provider"], row["key"], what), quota["left"])
                for row in rows()
                for what, quota in row["quota"].items()
            ],
        )
        self._observe(names.KEY_COST, cost)
        self._observe(
            names.SPENDING_SHARE,
            lambda: {
                (row["provider"],): row["provider_spent_usd_today"] / row["spend_max_usd_per_day"]
                for row in rows()
                if row["spend_max_usd_per_day"]
            }.items(),
        )

    def observe_sockets(self, count: Callable[[], int]) -> None:
        """Read the number of WebSockets at each scrape; without conversations there is no such gauge."""
        self._observe(names.SOCKETS, lambda: [((), count())])

    def observe_jobs(self, count: Callable[[], int], kinds: Iterable[str]) -> None:
        """Read the number of jobs at work at each scrape; without kinds of jobs there is no such gauge."""
        for kind in kinds:
            for state in ("done", "failed"):
                self._counters[names.JOBS_ENDED][kind, state] += 0
        self._observe(names.JOBS_RUNNING, lambda: [((), count())])

    def _job_step_ended(self, event: JobStepEnded) -> None:
        self._rarely[names.JOB_STEP_DURATION].record(event.took_s, (event.kind, event.result))

    def _queue_left(self, event: QueueLeft) -> None:
        route = self._known.route(event.route)
        self._queue[route, event.priority, event.how] += 1
        self._queue_wait.record(event.waited_s, (route, event.how))

    def scrape(self) -> bytes:
        """Render all metrics as `CONTENT_TYPE`. Call it inside the running loop, which dates histograms."""
        self._of_requests.count_waiting()
        self._scraped = self._states(), read_host()
        return generate_latest(self._registry)

    def close(self) -> None:
        """Shut OpenTelemetry down; a later scrape is empty."""
        self._meter_provider.shutdown()

    METHODS: ClassVar[Mapping[type, Callable[["Metrics", Any], None]]] = {
        DocumentRead: _document_read,
        DrainBegan: _drain_began,
        JobStepEnded: _job_step_ended,
        QueueLeft: _queue_left,
        StatementEnded: _statement_ended,
        WritesForgotten: _writes_forgotten,
    }
