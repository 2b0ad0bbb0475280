"""The cases of the matrix: what is done to the packages, one case a row.

Their expected behaviour: expected.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.script import Close, End, Hang, Reset
from tests.experiments.contract import faults
from tests.experiments.contract.faults import Shape

TIMEOUT_S = 1.5
PATIENT_S = 15.0
ALL = ("openai", "anthropic", "mistralai")
STATUSES = (
    400,
    401,
    402,
    403,
    404,
    408,
    409,
    413,
    422,
    429,
    498,
    499,
    500,
    502,
    503,
    504,
    520,
    524,
    529,
    530,
)


@dataclass(frozen=True, kw_only=True)
class ContractCase:
    """One call under one fault. `source`: the section of the measurements that the expectation is from."""

    name: str
    source: str
    call: str = "chat"
    faults: tuple[Mapping[str, Any], ...] = ()  # the simulators' own, as their JSON
    shape: Shape | None = None
    place: str = ""  # in place of a simulated provider: refused | nowhere | tls
    timeout_s: float = TIMEOUT_S
    packages: tuple[str, ...] = ALL
    params: Mapping[str, Any] = field(default_factory=dict)
    waits: bool = False  # the delays between retries are part of the result
    sent: bool = False  # the headers sent are part of the result
    alone: bool = False  # too heavy to run in parallel with the others


def status(number: int, **more: Any) -> Mapping[str, Any]:
    """Return a fault of the simulators."""
    fault = {"kind": "status", "status": number, **more}
    parse_fault(fault)
    return fault


HEALTHY = (
    ContractCase(name="chat", source="1.2-1.5", sent=True),
    ContractCase(name="stream", source="1.2-1.5", call="stream", sent=True),
    ContractCase(name="tool call", source="1.2-1.5", call="tool"),
    ContractCase(name="tool call, streamed", source="1.2-1.5", call="tool_stream"),
    ContractCase(name="list of models", source="1.2-1.5", call="models"),
    ContractCase(name="asynchronous stream", source="1.2-1.5", call="async_stream"),
    ContractCase(name="temperature", source="-", packages=("anthropic",), params={"temperature": 0.5}),
    ContractCase(
        name="temperature, as an extra field",
        source="0.2",
        packages=("anthropic",),
        params={"extra_body": {"temperature": 0.5}},
    ),
)

BY_STATUS = (
    *(
        ContractCase(name=f"{number}", source="2.6", faults=(status(number, retry_after_s=None),))
        for number in STATUSES
    ),
    ContractCase(name="503 before a stream", source="2.6", call="stream", faults=(status(503),)),
    ContractCase(
        name="307, then the answer",
        source="2.6",
        faults=(status(307, first=1),),
        shape=faults.headers(location="?again"),
    ),
    ContractCase(
        name="530, Cloudflare's text", source="2.6", faults=(status(530, body="cloudflare_1033_text"),)
    ),
    ContractCase(name="502, nginx' page", source="2.6", faults=(status(502, body="nginx_502_html"),)),
)

RETRY_HEADERS = (
    ContractCase(name="503: how long it waits", source="2.6", faults=(status(503),), waits=True),
    ContractCase(name="503, heals after two tries", source="2.6", faults=(status(503, first=2),)),
    ContractCase(
        name="503, x-should-retry: false",
        source="1.7",
        faults=(status(503),),
        shape=faults.headers(x_should_retry="false"),
    ),
    ContractCase(
        name="400, x-should-retry: true",
        source="1.7",
        faults=(status(400),),
        shape=faults.headers(x_should_retry="true"),
    ),
    ContractCase(
        name="429, retry-after: 9, retry-after-ms: 20",
        source="1.7",
        faults=(status(429, retry_after_s=9),),
        shape=faults.headers(retry_after_ms="20"),
        waits=True,
    ),
    *(
        ContractCase(
            name=f"429, retry-after: {s}", source="0.6", faults=(status(429, retry_after_s=s),), waits=True
        )
        for s in (60, 120, 121, 300)
    ),
    ContractCase(
        name="530, Cloudflare's JSON (retry-after: 120)",
        source="0.6",
        faults=(status(530, body="cloudflare_1033_json"),),
        waits=True,
    ),
    *(
        ContractCase(
            name=f"{number} twice, retries configured",
            source="0.7",
            call="chat_with_retries",
            faults=(status(number, first=2, retry_after_s=None),),
            packages=("mistralai",),
        )
        for number in (429, 500, 502, 503, 504, 520, 529, 530)
    ),
)

WHOLE = (
    ContractCase(name="refused", source="3.1", place="refused"),
    ContractCase(name="no such host", source="3.1", place="nowhere"),
    ContractCase(name="TLS stalls", source="3.1", place="tls"),
    ContractCase(name="reset before the head", source="3.1", faults=({"kind": "reset", "before": "head"},)),
    ContractCase(name="closed before the head", source="3.1", faults=({"kind": "close", "before": "head"},)),
    ContractCase(name="hangs before the head", source="3.1", faults=({"kind": "stall", "before": "head"},)),
    ContractCase(name="hangs after the head", source="3.1", shape=faults.nothing_after_head(Hang())),
    ContractCase(name="body shorter than announced", source="3.1", shape=faults.half_a_body(Close())),
    ContractCase(name="reset within the body", source="3.1", shape=faults.half_a_body(Reset())),
    ContractCase(
        name="garbage for a status line", source="-", shape=faults.raw_before_head(b"HELLO 42\r\n\r\n")
    ),
    ContractCase(name="200 with HTML", source="3.1", shape=faults.page(200, faults.HTML)),
    ContractCase(name="204", source="3.1", shape=faults.page(204, b"")),
    ContractCase(
        name="200 with JSON as text/plain",
        source="3.1",
        shape=faults.body_as(lambda body: body, content_type="text/plain"),
    ),
    ContractCase(name="200, empty", source="3.1", shape=faults.body_as(lambda body: b"")),
    ContractCase(
        name="200, JSON cut short", source="3.1", shape=faults.body_as(lambda body: body[: len(body) // 2])
    ),
    ContractCase(name="200 with an error in it", source="3.1", shape=faults.error_in_200),
    ContractCase(name="200, choices (content) []", source="3.1", shape=faults.no_choices([])),
    ContractCase(name="200, choices (content) null", source="3.1", shape=faults.no_choices(None)),
    ContractCase(name="200, no choices (content)", source="3.1", shape=faults.no_choices(...)),
    ContractCase(
        name="200, bad gzip",
        source="3.1",
        shape=faults.body_as(lambda body: b"no gzip at all", content_encoding="gzip"),
    ),
    ContractCase(
        name="200, gzip cut short", source="3.1", shape=faults.body_as(faults.zipped, content_encoding="gzip")
    ),
    ContractCase(name="200, no UTF-8", source="3.1", shape=faults.body_as(faults.not_utf8)),
    ContractCase(name="headers trickle", source="3.1", shape=faults.trickled_head),
    ContractCase(name="body trickles", source="3.1", shape=faults.trickled_body),
    ContractCase(
        name="newlines before the JSON", source="3.1", shape=faults.body_as(lambda body: b"\n" * 50 + body)
    ),
)

STREAMED = (
    ContractCase(
        name="ends without a finish",
        source="3.2",
        call="stream",
        faults=({"kind": "cut", "after_tokens": 3, "how": "end_without_finish"},),
    ),
    ContractCase(
        name="closed within",
        source="3.2",
        call="stream",
        faults=({"kind": "cut", "after_tokens": 3, "how": "close"},),
    ),
    ContractCase(
        name="reset within",
        source="3.2",
        call="stream",
        faults=({"kind": "cut", "after_tokens": 3, "how": "reset"},),
    ),
    ContractCase(name="stalls within", source="3.2", call="stream", shape=faults.after_tokens(3, Hang())),
    ContractCase(
        name="stalls before the first token",
        source="3.2",
        call="stream",
        faults=({"kind": "stall", "before": "first_token"},),
    ),
    ContractCase(
        name="an event of broken JSON",
        source="3.2",
        call="stream",
        shape=faults.then_event(faults.malformed, end=False),
    ),
    ContractCase(name="ends within a data: line", source="3.2", call="stream", shape=faults.cut_in_line),
    ContractCase(
        name="an error as data",
        source="3.2",
        call="stream",
        shape=faults.then_event(faults.error_chunk, end=True),
    ),
    ContractCase(
        name="an event: error",
        source="3.2",
        call="stream",
        shape=faults.then_event(faults.error_event, end=True),
    ),
    ContractCase(name="HTML instead", source="3.2", call="stream", shape=faults.page(200, faults.HTML)),
    ContractCase(
        name="JSON instead",
        source="3.2",
        call="stream",
        shape=faults.page(200, b'{"id":"x"}', "application/json"),
    ),
    ContractCase(name="empty body", source="3.2", call="stream", shape=faults.nothing_after_head(End())),
    ContractCase(name="only [DONE]", source="3.2", call="stream", shape=faults.only_last_event),
    ContractCase(name="bad chunks", source="3.2", call="stream", shape=faults.bad_chunks),
    ContractCase(
        name="an unknown event",
        source="3.2",
        call="stream",
        shape=faults.then_event(faults.unknown_event, end=False),
    ),
    ContractCase(
        name="lingers after its end",
        source="3.2",
        call="stream",
        shape=faults.lingering,
        timeout_s=PATIENT_S,
    ),
    ContractCase(name="no [DONE] (message_stop)", source="3.2", call="stream", shape=faults.no_last_event),
    ContractCase(name="comments, then tokens", source="3.2", call="stream", shape=faults.with_comments),
    ContractCase(
        name="an event of 8 MB",
        source="3.2",
        call="stream",
        shape=faults.then_event(faults.big_event, end=False),
        timeout_s=PATIENT_S,
        alone=True,
    ),
    ContractCase(name="lines with CRLF", source="3.2", call="stream", shape=faults.lines_as(faults.crlf)),
    ContractCase(name="byte by byte", source="3.2", call="stream", shape=faults.byte_by_byte),
    ContractCase(
        name="events without their names",
        source="1.4",
        call="stream",
        shape=faults.lines_as(faults.nameless),
        packages=("anthropic",),
    ),
    ContractCase(
        name="the package's own helper, no finish",
        source="3.2",
        call="helper",
        faults=({"kind": "cut", "after_tokens": 3, "how": "end_without_finish"},),
        packages=("openai", "anthropic"),
    ),
)

ASYNC = tuple(
    ContractCase(
        name=f"asynchronous: {case.name}",
        source="3.2",
        call="async_stream",
        faults=case.faults,
        shape=case.shape,
    )
    for case in STREAMED
    if case.name
    in (
        "ends without a finish",
        "closed within",
        "reset within",
        "stalls within",
        "an event of broken JSON",
        "an event: error",
        "HTML instead",
    )
)

GROUPS: Mapping[str, tuple[ContractCase, ...]] = {
    "Healthy": HEALTHY,
    "By status": BY_STATUS,
    "Headers about retries": RETRY_HEADERS,
    "Network and body, not streamed": WHOLE,
    "Streams": STREAMED,
    "Streams of the asynchronous clients": ASYNC,
}
CASES = tuple(case for group in GROUPS.values() for case in group)
