"""All scenarios; here those in which providers are at fault."""

from collections.abc import Iterator

from dub5.simulators.script import Action, Data, End, Head
from tests.experiments.equality.scenario import Scenario, chat, stream, warm
from tests.experiments.equality.scenarios_answers import ANSWERS
from tests.experiments.equality.scenarios_edge import EDGE
from tests.experiments.equality.scenarios_load import LOAD

STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 498, 500, 501, 502, 503, 504, *range(520, 531))
STREAMED = (400, 401, 413, 422, 429, 500, 503, 504, 524, 529, 530)
FAULTS = (
    "stall:head",
    "stall:body",
    "stall:first_token",
    "reset:head",
    "reset:first_token",
    "close:head",
    "close:end",
    "cut:0:close",
    "cut:3:close",
    "cut:3:reset",
    "cut:3:error_event",
    "cut:3:end_without_finish",
    "empty:",
    "slow:40",
    "notice:",
    "broken:status_line",
    "broken:length_long",
    "broken:html",
    "broken:text",
    "broken:no_content",
    "unreachable:connect:refused",
    "unreachable:connect:stall",
    "unreachable:resolve:refused",
)
JSON_FAULTS = ("garbage:json", "broken:gzip", "broken:length_short", "broken:utf8")
STREAM_FAULTS = ("garbage:sse", "broken:chunk", "broken:not_sse", "stall:end", "reset:body")
QUICK = "[route.timeouts]\nfirst_token_s = 2.0\nbetween_tokens_s = 2.0\nwhole_answer_s = 5.0\n"
FILTERED = (
    b'{"error":{"message":"The prompt was filtered.","type":"invalid_request_error","code":"content_filter"}}'
)
EVENT = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-sim","choices":'
    b'[{"index":0,"delta":%b,"finish_reason":%b}]}\n\n'
)


def _failover() -> Iterator[Scenario]:
    """Return scenarios in which the first of two providers is at fault, and the second is healthy."""
    for status in STATUSES:
        yield Scenario(f"failover status {status}", (chat(),), faults={"one": (f"status:{status}",)})
    for status in STREAMED:
        yield Scenario(f"failover status {status} stream", (stream(),), faults={"one": (f"status:{status}",)})
    for fault in (*FAULTS, *JSON_FAULTS):
        yield Scenario(f"failover {fault}", (chat(),), faults={"one": (fault,)}, route=QUICK)
    for fault in (*FAULTS, *STREAM_FAULTS):
        yield Scenario(f"failover {fault} stream", (stream(),), faults={"one": (fault,)}, route=QUICK)


def _all_down() -> Iterator[Scenario]:
    """Return scenarios in which no provider can answer."""
    for fault in ("status:503", "status:429", "status:401", "stall:head", "unreachable:connect:refused"):
        both = {"one": (fault,), "two": (fault,)}
        yield Scenario(f"all down {fault}", (chat(),), faults=both, route=QUICK)
    mixed = {"one": ("status:530",), "two": ("empty:",)}
    yield Scenario("all down mixed", (stream(),), faults=mixed, route=QUICK)
    broken = {"one": ("status:500",), "two": ("status:500",)}
    yield Scenario("breakers open", (*warm(8, chat()), chat(), stream()), faults=broken)


def _filtered() -> Iterator[Scenario]:
    """Return scenarios in which a provider's content filter ends the failover."""
    refuses: tuple[Action, ...] = (Head(400, {"content-type": "application/json"}), Data(FILTERED), End())
    yield Scenario("filtered prompt", (chat(), stream()), scripts={"one": refuses})
    ends: tuple[Action, ...] = (
        Head(200, {"content-type": "text/event-stream"}),
        Data(EVENT % (b'{"role":"assistant","content":"One"}', b"null")),
        Data(EVENT % (b"{}", b'"content_filter"')),
        Data(b"data: [DONE]\n\n"),
        End(),
    )
    yield Scenario("filtered answer", (stream(),), scripts={"one": ends})


SCENARIOS = (*EDGE, *_failover(), *_all_down(), *_filtered(), *ANSWERS, *LOAD)
