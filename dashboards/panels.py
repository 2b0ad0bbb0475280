"""The model of a dashboard, and helpers for its PromQL."""

from dataclasses import dataclass

from dub5.service.telemetry.names import Metric

INSTANCE_SELECTOR = 'job=~"$job",instance=~"$instance"'


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a panel: one line or a family of lines."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class ValueMapping:
    """The text and colour of a value."""

    text: str
    color: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel. `often_empty`: without incidents it has no data. `host_dependent`: some machines have none."""

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
    host_dependent: bool = False


@dataclass(frozen=True, slots=True)
class PanelRow:
    """Panels under a title of their own, which can be folded away."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard. `up` is a metric that every instance exports. `panels` come before the rows."""

    file: str
    uid: str
    title: str
    description: str
    up: str
    panels: tuple[Panel, ...]
    rows: tuple[PanelRow, ...] = ()

    @property
    def all_panels(self) -> tuple[Panel, ...]:
        """The panels, those of the rows too."""
        return self.panels + tuple(panel for row in self.rows for panel in row.panels)


def series(metric: Metric, match: str = "", suffix: str = "") -> str:
    """Return a selector for a metric's series of the selected instances."""
    return f"{metric.prometheus_name}{suffix}{{{INSTANCE_SELECTOR}{',' + match if match else ''}}}"


def rate(metric: Metric, *, by: str = "", match: str = "", suffix: str = "") -> str:
    """Return PromQL for events per second, summed over instances and all labels except `by`."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({series(metric, match, suffix)}[$__rate_interval]))"


def quantile(share: float, metric: Metric, *, by: str = "", match: str = "") -> str:
    """Return PromQL for a quantile over all instances, for each value of `by`."""
    grouping = f"le, {by}" if by else "le"
    return (
        f"histogram_quantile({share}, sum by ({grouping}) "
        f"(rate({series(metric, match, '_bucket')}[$__rate_interval])))"
    )


def quantiles(metric: Metric, *, by: str = "", legend: str = "", match: str = "") -> tuple[Query, ...]:
    """Return queries for p50, p95 and p99."""
    return tuple(
        Query(quantile(share, metric, by=by, match=match), f"p{round(share * 100)} {legend}".strip())
        for share in (0.5, 0.95, 0.99)
    )
