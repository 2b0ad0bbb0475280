"""The dashboards query only what the service exports: the real application, in virtual time."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dashboards.generate import DASHBOARDS, render
from dashboards.providers import KEY_VARIABLE, PROVIDERS, settings
from dub5.service.app import Service
from dub5.service.config.load import load
from dub5.service.events import DocumentRead, JobEnded, JobStepEnded, StepResult
from dub5.service.telemetry.host import HostUsage
from dub5.service.telemetry.process_watch import ProcessWatch
from dub5.simulators.virtual import AppClient, VirtualWire
from tests.support.fake_database import FakeDatabase
from tests.support.job_world import NumberKind

IGNORED = {"le", "job", "instance"}  # added by the histogram's text and by Prometheus itself


def service(folder: Path) -> Service:
    config = folder / "service.toml"
    config.write_text(settings({name: f"http://{name}" for name in PROVIDERS}))
    wire = VirtualWire({f"http://{name}": respond for name, respond in PROVIDERS.items()})
    variables = {"DUB5_DATABASE_URL": "sqlite:///never.db", "DUB5_HOOK_URL": "http://hook/"}
    loaded = load(config, variables | {"DUB5_HOOK_SECRET": "0" * 32, KEY_VARIABLE: "sk-keyed"})
    made = Service(loaded, wire=wire, database=FakeDatabase(), seed="0", watch=ProcessWatch())
    assert made.store is not None
    made.store.folder = folder
    made.metrics.observe_connections(lambda: 1)
    return made


async def scrape(folder: Path) -> str:
    """Return the metrics after an incident.

    It has failovers, a cached answer, a cut stream, an open breaker, denied retries, a hedged probe, a
    fallback answer, a queue and a shared call. A WebSocket has come and gone, and a job. A budget is spent.
    """
    requests = [("chat", True, 1), ("chat", False, 0), ("chat", False, 0), ("torn", True, 1)]
    requests += [("down", False, 1)] * 8  # until its breaker opens, and beyond
    requests += [("sorry", False, 1)]
    requests += [("keyed", True, 1)] * 6  # until its budget is spent
    requests += [("flaky", False, 1)] * 60
    concurrent = [("slow", False, 1)] * 6 + [("slow", False, 0)] * 2
    served = service(folder)
    assert served.jobs is not None
    served.jobs.kinds["number"] = NumberKind([])
    async with AppClient(served.asgi) as client:
        served.events.emit(JobStepEnded("number", "job", 0, StepResult.RETRY, 1.0, 1))
        served.events.emit(DocumentRead("pdf", "read", 0.1, 1_000))
        served.events.emit(JobEnded("number", "job", "done", 9.0, 2))
        await asyncio.gather(
            *(client.request("POST", "/v1/chat/completions", json=body(*one)) for one in concurrent)
        )
        for model, stream, temperature in requests:
            await client.request("POST", "/v1/chat/completions", json=body(model, stream, temperature))
        for _ in range(6):
            await asyncio.sleep(1)  # the breaker's probe is due, and a request carries it
            await client.request("POST", "/v1/chat/completions", json=body("chat", True, 1))
        page = {"sec-fetch-site": "same-origin"}
        begun = await client.request("POST", "/v1/session", headers=page)
        page["cookie"] = begun.headers["set-cookie"].partition(";")[0]
        async with client.socket("/v1/ws", headers=page, subprotocols=["dub5.v1"]) as socket:
            await socket.receive()
        return (await client.request("GET", "/metrics")).body.decode()


EVERYTHING = HostUsage(1, 2, "cgroup", 0.5, "cgroup", 1.5, 0.25)  # which not every host tells


def body(model: str, stream: bool, temperature: int) -> dict[str, object]:
    question = {"role": "user", "content": "?"}
    return {"model": model, "messages": [question], "stream": stream, "temperature": temperature}


def selectors() -> Iterator[tuple[str, str, set[str]]]:
    """Yield each selector on the boards: panel, series name, the labels that it or its grouping uses."""
    for dashboard in DASHBOARDS:
        for panel in json.loads(render(dashboard))["panels"]:
            for target in panel.get("targets", ()):  # the title of a row has none
                grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
                shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                for name, selector in re.findall(r"(\w+)\{([^}]*)\}", target["expr"]):
                    used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) | grouped | shown
                    yield panel["title"], name, used - IGNORED


async def test_every_series_on_the_boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service exports every series and label that a panel queries, after an incident."""
    monkeypatch.setattr("dub5.service.telemetry.metrics.read_host", lambda: EVERYTHING)
    exported: dict[str, set[str]] = {}
    moved: dict[str, float] = {}
    for family in text_string_to_metric_families(await scrape(tmp_path)):
        for sample in family.samples:
            moved[sample.name] = moved.get(sample.name, 0.0) + sample.value
            names = {name for name, value in sample.labels.items() if value}
            exported.setdefault(sample.name, set()).update(names)
    wanted = list(selectors())
    assert {panel for panel, _, _ in wanted} == {
        panel.title for dashboard in DASHBOARDS for panel in dashboard.all_panels
    }
    for panel, name, labels in wanted:
        assert name in exported, f"{panel} queries {name}, which the service does not export"
        assert labels <= exported[name], f"{panel}: {name} has no {labels - exported[name]}"
    for name in (
        "gateway_retries_denied_total",
        "gateway_hedges_total",
        "gateway_health_changes_total",
        "gateway_shared_total",
        "gateway_key_checks_total",
        "gateway_spending_events_total",
    ):
        assert moved[name] > 0, f"{name} has not moved: the incident was no incident"
