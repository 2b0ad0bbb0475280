"""A histogram in plain numbers, which joins OpenTelemetry's data when it is collected."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from opentelemetry.sdk.metrics.export import AggregationTemporality, HistogramDataPoint
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import Metric as MetricData

from dub5.service.telemetry.event_tables import Labels
from dub5.service.telemetry.names import Metric


class Histogram:
    """A histogram: counts per bucket, for each set of labels."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._rows: dict[Labels, list[float]] = {}  # the sum, then the count of each bucket

    def start(self, labels: Labels) -> list[float]:
        """Begin a series at zero, and return its row."""
        return self._rows.setdefault(labels, [0.0] * (len(self.metric.buckets) + 2))

    def record(self, value: float, labels: Labels) -> None:
        """Add one value, in the metric's unit."""
        row = self._rows.get(labels)
        if row is None:
            row = self.start(labels)
        row[0] += value
        row[1 + bisect_left(self.metric.buckets, value)] += 1

    def record_all(self, values: list[float], labels: Labels) -> None:
        """Add several values, and sort them; none begin no series.

        A search for each bound among the values is cheaper than one for each value among the bounds.
        """
        if not values:
            return
        values.sort()
        row, bounds, before = self.start(labels), self.metric.buckets, 0
        first, last = bisect_left(bounds, values[0]), bisect_left(bounds, values[-1])
        for bucket in range(first, last):
            upto = bisect_right(values, bounds[bucket])
            row[1 + bucket] += upto - before
            before = upto
        row[1 + last] += len(values) - before
        row[0] += sum(values)

    def counts(self, labels: Labels) -> Sequence[float]:
        """Return the count of each bucket."""
        row = self._rows.get(labels)
        return row[1:] if row is not None else [0.0] * (len(self.metric.buckets) + 1)

    def collect(self, at_ns: int) -> MetricData:
        """Return all points in OpenTelemetry's format."""
        points = [self._point(labels, row, at_ns) for labels, row in self._rows.items()]
        data = HistogramData(points, AggregationTemporality.CUMULATIVE)
        return MetricData(self.metric.name, self.metric.help, self.metric.unit, data)

    def _point(self, labels: Labels, row: list[float], at_ns: int) -> HistogramDataPoint:
        counts = [int(count) for count in row[1:]]
        return HistogramDataPoint(
            attributes=dict(zip(self.metric.labels, labels, strict=True)),
            start_time_unix_nano=0,  # unknown
            time_unix_nano=at_ns,
            count=sum(counts),
            sum=row[0],
            bucket_counts=counts,
            explicit_bounds=self.metric.buckets,
            min=math.inf,  # not kept
            max=-math.inf,
        )
