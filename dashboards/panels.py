"""What a dashboard is made of, and the PromQL that is written more than once."""

from dataclasses import dataclass

from dub5.service.telemetry.names import Metric

INSTANCE_SELECTOR = 'job=~"$job",instance=~"$instance"'


@dataclass(frozen=True, slots=True)
class Query:
    """One line (or family of lines) of a panel."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class ValueMapping:
    """What a number stands for."""

    text: str
    color: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture, and the question it answers. `often_empty`: nothing to see is the good case."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    max_value: float | None = None
    value_mappings: tuple[ValueMapping, ...] = ()
    often_empty: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One question to the whole service. `up` is a metric every instance has."""

    file: str
    uid: str
    title: str
    description: str
    up: str
    panels: tuple[Panel, ...]


def series(metric: Metric, match: str = "", suffix: str = "") -> str:
    """The series of a metric of the chosen instances."""
    return f"{metric.prometheus_name}{suffix}{{{INSTANCE_SELECTOR}{',' + match if match else ''}}}"


def rate(metric: Metric, *, by: str = "", match: str = "") -> str:
    """Events a second, added up over instances and every label but `by`."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({series(metric, match)}[$__rate_interval]))"


def quantile(share: float, metric: Metric, *, by: str = "", match: str = "") -> str:
    """A quantile over instances, for each value of `by`."""
    grouping = f"le, {by}" if by else "le"
    return (
        f"histogram_quantile({share}, sum by ({grouping}) "
        f"(rate({series(metric, match, '_bucket')}[$__rate_interval])))"
    )


def quantiles(metric: Metric, *, by: str = "", legend: str = "", match: str = "") -> tuple[Query, ...]:
    """p50, p95 and p99."""
    return tuple(
        Query(quantile(share, metric, by=by, match=match), f"p{round(share * 100)} {legend}".strip())
        for share in (0.5, 0.95, 0.99)
    )
