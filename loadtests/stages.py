"""Where the time of a run went inside of the service: its stages, by the service's own metrics.

before = await scrape(url, key);  ... the run ...;  stages(before, await scrape(url, key))
"""

import asyncio
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from dub5.service.telemetry import names
from dub5.service.telemetry.names import Metric

SCRAPE_S = 10.0
STAGES = {
    "queue before full providers": names.QUEUE_WAIT,
    "provider, to its first token": names.FIRST_CHUNK,
    "database, a statement": names.STORE_DURATION,
    "the service itself, before the first byte": names.OVERHEAD,
}
REQUESTS = names.REQUESTS.prometheus_name

# By name of the series and upper bound; other labels are summed.
ScrapedSeries = Mapping[tuple[str, str], float]


class StageTime(Struct, frozen=True):
    """The time of one stage: how often it was passed, its p95 (the bound of its bucket), and per request."""

    name: str
    count: int
    p95_ms: float
    request_ms: float


async def scrape(url: str, key: str | None = None) -> ScrapedSeries:
    """Return the metrics of a service; nothing where it does not show them."""
    return await asyncio.to_thread(_scrape, url, key)


def _scrape(url: str, key: str | None) -> ScrapedSeries:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=SCRAPE_S)
    try:
        connection.request("GET", "/metrics", headers={"authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        body = response.read()
        return parse(body.decode()) if response.status == 200 else {}
    except (OSError, HTTPException, ValueError):
        return {}
    finally:
        connection.close()


def parse(text: str) -> ScrapedSeries:
    """Return the sums of each series of Prometheus' text format. Raises ValueError."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            key = one.name, one.labels.get("le", "")
            found[key] = found.get(key, 0.0) + one.value
    return found


def stages(before: ScrapedSeries, after: ScrapedSeries) -> list[StageTime]:
    """Return the stages that were passed between two readings, the one that costs a request most first."""
    gained = {key: value - before.get(key, 0.0) for key, value in after.items()}
    requests = gained.get((REQUESTS, ""), 0.0)
    found = [_stage(name, metric, gained, requests) for name, metric in STAGES.items()]
    return sorted((one for one in found if one.count), key=lambda one: -one.request_ms)


def _stage(name: str, metric: Metric, gained: ScrapedSeries, requests: float) -> StageTime:
    series = metric.prometheus_name
    count, sum_s = gained.get((f"{series}_count", ""), 0.0), gained.get((f"{series}_sum", ""), 0.0)
    bounds = sorted((float(le), value) for (key, le), value in gained.items() if key == f"{series}_bucket")
    p95_s = next((bound for bound, below in bounds if below >= 0.95 * count), 0.0)
    return StageTime(name, round(count), p95_s * 1000, sum_s * 1000 / requests if requests else 0.0)
