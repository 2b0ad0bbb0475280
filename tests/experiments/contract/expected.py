"""What each package was measured to do, independently of this project, and which differences are known.

A row: case -> (openai, anthropic, mistralai). OLD says where the older packages were measured to differ from
the newer ones; where OLD has no entry, they are expected to do the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.experiments.contract.cases import CASES, STATUSES, ContractCase
from tests.experiments.contract.packages import Column

PACKAGES = ("openai", "anthropic", "mistralai")

TYPED = {
    400: "1x BadRequestError",
    401: "1x AuthenticationError",
    403: "1x PermissionDeniedError",
    404: "1x NotFoundError",
    409: "3x ConflictError",
    422: "1x UnprocessableEntityError",
    429: "3x RateLimitError",
}
UNTYPED = {402: "1x APIStatusError", 408: "3x APIStatusError", 413: "1x APIStatusError"}
UNTYPED |= {498: "1x APIStatusError", 499: "1x APIStatusError"}
SERVER = {number: "3x InternalServerError" for number in STATUSES if number >= 500}
BY_STATUS: Mapping[str, Mapping[int, str]] = {
    "openai": TYPED | UNTYPED | SERVER,
    "anthropic": TYPED
    | UNTYPED
    | SERVER
    | {
        402: "1x PaymentRequiredError",
        408: "3x RequestTimeoutError",
        413: "1x ContentTooLargeError",
        499: "1x ClientClosedRequestError",
        503: "3x ServiceUnavailableError",
        504: "3x GatewayTimeoutError",
        529: "3x OverloadedError",
    },
    "mistralai": dict.fromkeys(STATUSES, "1x SDKError") | {422: "1x HTTPValidationError"},
}


def connection(cause: str) -> tuple[str, str, str]:
    """Expect a connection that fails: three attempts, or one attempt and a raw error."""
    kind = "APITimeoutError" if "Timeout" in cause else "APIConnectionError"
    return (f"3x {kind}[{cause}]", f"3x {kind}[{cause}]", f"1x raw {cause}")


def within(cause: str) -> tuple[str, str, str]:
    """Expect a stream that fails once it has begun: no retry."""
    kind = "APITimeoutError" if "Timeout" in cause else "APIConnectionError"
    return (f"1x {kind}[{cause}]", f"1x raw {cause}", f"1x raw {cause}")


def same(said: str) -> tuple[str, str, str]:
    """Expect the same of all three packages."""
    return (said, said, said)


JSON_ERROR = "1x raw JSONDecodeError"
NOT_VALID = "1x ResponseValidationError"
NEVER = "1x SDKError, waits none"
BEARER = "ok; Authorization: Bearer"
DATED = f"{BEARER}, anthropic-version: 2026-10-21, accept: application/json"

ROWS: Mapping[str, tuple[str, str, str]] = {
    "chat": (f"{BEARER}, accept: application/json", DATED, f"{BEARER}, accept: application/json"),
    "stream": (f"{BEARER}, accept: application/json", DATED, f"{BEARER}, accept: text/event-stream"),
    **{
        name: same("ok")
        for name in ("tool call", "tool call, streamed", "list of models", "asynchronous stream")
    },
    "temperature": ("", "ok", ""),
    "temperature, as an extra field": ("", "1x BadRequestError", ""),
    "503 before a stream": ("3x InternalServerError", "3x ServiceUnavailableError", "1x SDKError"),
    "307, then the answer": same("2x ok"),
    "530, Cloudflare's text": ("3x InternalServerError", "3x InternalServerError", "1x SDKError"),
    "502, nginx' page": ("3x InternalServerError", "3x InternalServerError", "1x SDKError"),
    "503: how long it waits": (
        "3x InternalServerError, waits ~0.5, ~1",
        "3x ServiceUnavailableError, waits ~0.5, ~1",
        NEVER,
    ),
    "503, heals after two tries": ("3x ok", "3x ok", "1x SDKError"),
    "503, x-should-retry: false": ("1x InternalServerError", "1x ServiceUnavailableError", "1x SDKError"),
    "400, x-should-retry: true": ("3x BadRequestError", "3x BadRequestError", "1x SDKError"),
    "429, retry-after: 9, retry-after-ms: 20": (
        "3x RateLimitError, waits 0.02, 0.02",
        "3x RateLimitError, waits 0.02, 0.02",
        NEVER,
    ),
    "429, retry-after: 60": ("3x RateLimitError, waits 60, 60", "3x RateLimitError, waits 60, 60", NEVER),
    "429, retry-after: 120": (
        "3x RateLimitError, waits 120, 120",
        "3x RateLimitError, waits 120, 120",
        NEVER,
    ),
    "429, retry-after: 121": ("1x RateLimitError, waits none", "3x RateLimitError, waits 121, 121", NEVER),
    "429, retry-after: 300": ("1x RateLimitError, waits none", "3x RateLimitError, waits 300, 300", NEVER),
    "530, Cloudflare's JSON (retry-after: 120)": (
        "3x InternalServerError, waits 120, 120",
        "3x InternalServerError, waits 120, 120",
        NEVER,
    ),
    **{f"{n} twice, retries configured": ("", "", "3x ok") for n in (429, 500, 502, 503, 504)},
    **{f"{n} twice, retries configured": ("", "", "1x SDKError") for n in (520, 529, 530)},
    "refused": connection("ConnectError"),
    "no such host": connection("ConnectError"),
    "TLS stalls": connection("ConnectTimeout"),
    "reset before the head": connection("ReadError"),
    "closed before the head": connection("RemoteProtocolError"),
    "hangs before the head": connection("ReadTimeout"),
    "hangs after the head": connection("ReadTimeout"),
    "body shorter than announced": connection("RemoteProtocolError"),
    "reset within the body": connection("ReadError"),
    "garbage for a status line": connection("RemoteProtocolError"),
    "200 with HTML": ("a str", "a str", "1x SDKError"),
    "204": ("a str", "a str", "1x SDKError"),
    "200 with JSON as text/plain": ("ok", "ok", "1x SDKError"),
    "200, empty": (JSON_ERROR, JSON_ERROR, NOT_VALID),
    "200, JSON cut short": (JSON_ERROR, JSON_ERROR, NOT_VALID),
    "200 with an error in it": ("choices=None", "content=None", NOT_VALID),
    "200, choices (content) []": ("choices=[]", "content=[]", "choices=[]"),
    "200, choices (content) null": ("choices=None", "content=None", NOT_VALID),
    "200, no choices (content)": ("choices=None", "content=None", NOT_VALID),
    "200, bad gzip": connection("DecodingError"),
    "200, gzip cut short": (JSON_ERROR, JSON_ERROR, NOT_VALID),
    "200, no UTF-8": ("1x raw UnicodeDecodeError", "1x raw UnicodeDecodeError", NOT_VALID),
    "headers trickle": same("ok"),
    "body trickles": same("ok"),
    "newlines before the JSON": same("ok"),
    "ends without a finish": same("silent, cut"),
    "closed within": within("RemoteProtocolError"),
    "reset within": within("ReadError"),
    "stalls within": within("ReadTimeout"),
    "stalls before the first token": within("ReadTimeout"),
    "an event of broken JSON": (JSON_ERROR, JSON_ERROR, NOT_VALID),
    "ends within a data: line": ("silent, cut", "silent, cut", NOT_VALID),
    "an error as data": ("1x APIError", "silent, cut", 'silent, cut, finish "error"'),
    "an event: error": ("1x APIError", "1x APIStatusError, status 200, overloaded_error", NOT_VALID),
    "HTML instead": ("silent, 0 events", "silent, 0 events", "1x SDKError"),
    "JSON instead": ("silent, 0 events", "silent, 0 events", "1x SDKError"),
    "empty body": same("silent, 0 events"),
    "only [DONE]": same("silent, 0 events"),
    "bad chunks": within("RemoteProtocolError"),
    "an unknown event": ("ok, yields it", "ok, yields it", NOT_VALID),
    "lingers after its end": ("ok", "ok, waits for the end", "ok"),
    **{
        name: same("ok")
        for name in (
            "no [DONE] (message_stop)",
            "comments, then tokens",
            "an event of 8 MB",
            "lines with CRLF",
            "byte by byte",
        )
    },
    "events without their names": ("", "silent, 0 events", ""),
    "the package's own helper, no finish": ("silent, cut", "silent, cut", ""),
}

OLD: Mapping[tuple[str, str], str] = {
    **{("openai", name): ROWS[name][1] for name in ("closed within", "reset within", "bad chunks")},
    **{("openai", name): ROWS[name][1] for name in ("stalls within", "stalls before the first token")},
    ("anthropic", "chat"): "ok; x-api-key, anthropic-version: 2023-06-01, accept: application/json",
    ("anthropic", "stream"): "ok; x-api-key, anthropic-version: 2023-06-01, accept: application/json",
    ("anthropic", "temperature, as an extra field"): "ok",
    ("anthropic", "503"): "3x InternalServerError",
    ("anthropic", "504"): "3x InternalServerError",
    ("anthropic", "503 before a stream"): "3x InternalServerError",
    ("anthropic", "503: how long it waits"): "3x InternalServerError, waits ~0.5, ~1",
    ("anthropic", "503, x-should-retry: false"): "1x InternalServerError",
    **{("anthropic", f"429, retry-after: {s}"): "3x RateLimitError, waits ~0.5, ~1" for s in (120, 121, 300)},
    ("anthropic", "530, Cloudflare's JSON (retry-after: 120)"): "3x InternalServerError, waits ~0.5, ~1",
    ("anthropic", "an unknown event"): "ok",
    ("mistralai", "an event of broken JSON"): "1x raw ValidationError",
}


@dataclass(frozen=True)
class Known:
    """A difference that was investigated. `ages`: its columns."""

    package: str
    ages: tuple[str, ...]
    case: str
    seen: str
    why: str


NEWER = ("new", "newest")
FEWER_CLASSES = (
    "0.125.0 has fewer classes of errors than 2.x: no more was claimed of it than 503, 504 and 529."
)
RAW_PYDANTIC = (
    "1.12.4 lets pydantic's own error through wherever 3.x wraps it. "
    "The measurements said so of broken JSON alone; "
    "it is one path in the package, and all four faults go through it."
)
DIFFERENCES = (
    *(
        Known("anthropic", ("old",), case, seen, FEWER_CLASSES)
        for case, seen in {
            "402": "1x APIStatusError",
            "408": "3x APIStatusError",
            "413": "1x RequestTooLargeError",
            "499": "1x APIStatusError",
        }.items()
    ),
    Known(
        "anthropic",
        NEWER,
        "temperature",
        "0x raw TypeError",
        "2.x has no such parameter any more, so nothing is sent. "
        "As an extra field it gets the 400 that was measured.",
    ),
    *(
        Known("mistralai", ("old",), case, "1x raw ValidationError", RAW_PYDANTIC)
        for case in ("ends within a data: line", "an event: error", "an unknown event")
    ),
    Known(
        "mistralai",
        ("old", *NEWER),
        "200, no UTF-8",
        "ok",
        "The package reads the body as text, in which bytes that are no UTF-8 become U+FFFD, "
        "and only then as JSON. "
        "Ours stand within a string of an otherwise whole answer, so nothing is left to complain of; "
        "a body that lacks fields as well raises ResponseValidationError.",
    ),
    Known(
        "mistralai",
        ("old",),
        "lingers after its end",
        "ok, waits for the end",
        "3.x returns at [DONE]; "
        "the reader of 1.12.4 throws away what follows [DONE] until the server closes.",
    ),
    Known(
        "mistralai",
        ("old",),
        "an event of 8 MB",
        "still busy after 15 s",
        "1.12.4 searches its whole buffer for the event's end again with every piece that arrives: 2.5 s of "
        "processor time for 1 MB, 9 s for 2 MB, so minutes for 8 MB. 3.x searches what is new.",
    ),
)


def expected(column: Column, case: ContractCase) -> str:
    """Return what the column's package is expected to do."""
    listed = OLD.get((column.package, case.name)) if column.age == "old" else None
    if listed is not None:
        return listed
    if case.name.isdecimal() and int(case.name) in BY_STATUS[column.package]:
        return BY_STATUS[column.package][int(case.name)]
    name = case.name.removeprefix("asynchronous: ")
    if name != case.name and column.age == "old" and (column.package, name) in OLD:
        return OLD[column.package, name]
    return ROWS[name][PACKAGES.index(column.package)]


def explained(column: Column, case: str, seen: str) -> str:
    """Return why this was seen instead, "" if the difference is unknown."""
    case = case.removeprefix("asynchronous: ")
    for known in DIFFERENCES:
        if (known.package, known.case, known.seen) == (
            column.package,
            case,
            seen,
        ) and column.age in known.ages:
            return known.why
    return ""


assert all(expected(Column(package, "new"), case) for case in CASES for package in case.packages)
