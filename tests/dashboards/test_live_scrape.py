"""Do the dashboards ask for what the service tells? Real requests through the real application, in virtual time."""

import json
import re
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from dashboards.generate import BOARDS, render
from service.app import Service
from service.settings import CacheOptions, Loaded, ProviderSettings, RouteSettings, Settings
from simulators.script import Close, Data, End, Head, Script, SimRequest, Wait
from simulators.virtual import AppClient, VirtualWire

EVENT_STREAM = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
IGNORED = {"le", "job", "instance"}  # added by the histogram's text and by Prometheus itself


def answers(request: SimRequest) -> Script:
    """A healthy provider."""
    if json.loads(request.body).get("stream"):
        yield Head(200, EVENT_STREAM)
        for delta in ({"role": "assistant", "content": "so"}, {"content": " be it"}):
            yield Wait(0.02)
            yield Data(event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))
        yield Data(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        yield Data(event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")
    else:
        yield Head(200, JSON)
        message = {"role": "assistant", "content": "so be it"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        yield Data(json.dumps({"id": "c", "object": "chat.completion", "choices": [choice]}).encode())
    yield End()


def is_down(request: SimRequest) -> Script:
    """A provider behind a tunnel that is gone."""
    yield Head(530, {"content-type": "text/plain"})
    yield Data(b"error code: 1033")
    yield End()


def breaks_off(request: SimRequest) -> Script:
    """A provider that closes the connection in the middle of its answer."""
    yield Head(200, EVENT_STREAM)
    yield Data(event({"choices": [{"index": 0, "delta": {"content": "so"}, "finish_reason": None}]}))
    yield Wait(0.02)
    yield Close()


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def service() -> Service:
    names = {"down": is_down, "up": answers, "torn": breaks_off}
    providers = tuple(ProviderSettings(name, "openai", f"http://{name}/v1") for name in names)
    settings = Settings(
        provider=providers,
        route=(
            RouteSettings("chat", ("down/m", "up/m"), cache=CacheOptions(enabled=True)),
            RouteSettings("torn", ("torn/m",)),
            RouteSettings("down", ("down/m",)),
        ),
    )
    wire = VirtualWire({f"http://{name}": respond for name, respond in names.items()})
    return Service(Loaded(settings, {}, ()), wire=wire, seed="0")


async def scrape() -> str:
    """The metrics after a failed over answer of each kind, a cached one, a cut stream and an open breaker."""
    requests = [("chat", True, 1), ("chat", False, 0), ("chat", False, 0), ("torn", True, 1)]
    requests += [("down", False, 1)] * 8  # until its breaker opens, and beyond
    async with AppClient(service().asgi) as client:
        for model, stream, temperature in requests:
            ask = {"model": model, "messages": [{"role": "user", "content": "?"}], "stream": stream}
            await client.request("POST", "/v1/chat/completions", json=ask | {"temperature": temperature})
        return (await client.request("GET", "/metrics")).body.decode()


def asked() -> Iterator[tuple[str, str, set[str]]]:
    """Each selector on the boards: panel, series name, the labels it or its grouping uses."""
    for board in BOARDS:
        for panel in json.loads(render(board))["panels"]:
            for target in panel["targets"]:
                grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
                shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                for name, selector in re.findall(r"(\w+)\{([^}]*)\}", target["expr"]):
                    used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) | grouped | shown
                    yield panel["title"], name, used - IGNORED


async def test_every_series_on_the_boards() -> None:
    """What a panel asks for is told by a service that has lived through an incident, with every label used."""
    told: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(await scrape()):
        for sample in family.samples:
            told.setdefault(sample.name, set()).update(name for name, value in sample.labels.items() if value)
    wanted = list(asked())
    assert {panel for panel, _, _ in wanted} == {panel.title for board in BOARDS for panel in board.panels}
    for panel, name, labels in wanted:
        assert name in told, f"{panel} asks for {name}, which nobody tells"
        assert labels <= told[name], f"{panel}: {name} has no {labels - told[name]}"
