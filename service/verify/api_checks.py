"""Checks of the API: health, models, a JSON answer, a stream with its honest end, the one shape of errors.

A check returns what it saw, or raises CheckFailed with what to do, or FeatureMissing.
"""

from collections.abc import Iterator
from typing import Any

from dub5.service.verify.site import CheckFailed, Site, SiteAnswer, decoded_object

DONE = "[DONE]"
ERROR_FIELDS = {"message", "type", "code", "param", "id", "retry_after", "suggestion"}
CHAT = "/v1/chat/completions"
WRONG_REQUESTS = (  # method, path, body, and the status that is due
    ("GET", "/v1/no-such-path", b"", 404),
    ("POST", CHAT, b"{", 400),
    ("GET", CHAT, b"", 405),
)


async def check_health(site: Site) -> str:
    """Check that the process runs and says its version."""
    answer = await site.ask("GET", "/health")
    if answer.status != 200 or answer.data().get("status") != "ok":
        raise CheckFailed(f"GET /health: {answer.told()}; is this the service's address, without a path?")
    return f"version {answer.data().get('version')}"


async def check_ready(site: Site) -> str:
    """Check that the instance takes requests."""
    answer = await site.ask("GET", "/readyz")
    if answer.status != 200:
        raise CheckFailed(f"GET /readyz: {answer.told()}; it is ending, or something stands before it")
    return "takes requests"


async def check_models(site: Site) -> str:
    """Check that the models are listed, and choose the one to ask."""
    answer = await site.ask("GET", "/v1/models")
    if answer.status == 401:
        raise CheckFailed("HTTP 401; name the variable that holds a caller key with --key-env")
    rows = answer.data().get("data")
    names = [str(row.get("id")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if answer.status != 200 or not names:
        raise CheckFailed(f"GET /v1/models lists none: {answer.told()}; which settings file is deployed?")
    site.model = site.model or next((name for name in names if "embed" not in name), names[0])
    if site.model not in names:
        raise CheckFailed(f"there is no model {site.model!r}, but {', '.join(names)}; choose with --model")
    return ", ".join(names)


async def check_chat(site: Site) -> str:
    """Check that a provider answers a question."""
    answer = await site.chat(stream=False)
    _check_answered(answer)
    match answer.data().get("choices"):
        case [{"message": {"content": content}, "finish_reason": reason}, *_] if (
            content or reason == "length"
        ):
            return f"{answer.headers.get('x-dub5-target', 'a provider')} answers {site.model!r}"
    raise CheckFailed("the answer holds no text; `dub5 check --online` asks each provider")


async def check_stream(site: Site) -> str:
    """Check that a stream brings content, a finish reason, and `[DONE]` at its end."""
    answer = await site.chat(stream=True)
    _check_answered(answer)
    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
        raise CheckFailed("the stream is no text/event-stream; what stands before the service changes it")
    events = list(_events(answer.body))
    chunks = [chunk for event in events if event != DONE for chunk in [_chunk(event)]]
    if any("error" in chunk for chunk in chunks):
        raise CheckFailed("the stream ends with an error event; `dub5 check --online` asks each provider")
    reasons = [reason for chunk in chunks for reason in _finish_reasons(chunk)]
    if not events or events[-1] != DONE or not any(reasons):
        raise CheckFailed(
            "the stream is cut: no finish reason and [DONE]; is a time limit before it too short?"
        )
    return f"{len(chunks)} events, whole"


async def check_errors(site: Site) -> str:
    """Check that wrong requests get their status, and errors their one shape."""
    for method, path, body, status in WRONG_REQUESTS:
        answer = await site.ask(method, path, body)
        error = answer.data().get("error")
        if answer.status != status:
            raise CheckFailed(
                f"{method} {path}: HTTP {answer.status} where {status} is due; who answers there?"
            )
        if not isinstance(error, dict) or not error.keys() >= ERROR_FIELDS:
            raise CheckFailed(
                f"{method} {path}: not our shape of errors; something before the service answers"
            )
        if answer.headers.get("x-request-id") != error["id"]:
            raise CheckFailed(
                f"{method} {path}: x-request-id is not the error's id; is the header taken away?"
            )
    return ", ".join(str(status) for *_, status in WRONG_REQUESTS)


def _check_answered(answer: SiteAnswer) -> None:
    if answer.status != 200:
        raise CheckFailed(
            f"{answer.told()}; `dub5 check --online` asks each provider, with a reason for each"
        )
    if "x-dub5-degraded" in answer.headers:
        raise CheckFailed("a fallback answer: no provider could answer; `dub5 check --online` asks each")


def _events(stream: bytes) -> Iterator[str]:
    for line in stream.decode("utf-8", "replace").splitlines():
        if line.startswith("data:"):
            yield line.removeprefix("data:").strip()


def _chunk(event: str) -> dict[str, Any]:
    found = decoded_object(event)
    if found is None:
        raise CheckFailed(
            "an event of the stream is no JSON object; what stands before the service changes it"
        )
    return found


def _finish_reasons(chunk: dict[str, Any]) -> list[Any]:
    choices = chunk.get("choices")
    known = choices if isinstance(choices, list) else ()
    return [choice.get("finish_reason") for choice in known if isinstance(choice, dict)]
