"""Puts the OpenAPI document together: `document()`. OpenAPI 3.1, https://spec.openapis.org/oas/v3.1.1."""

import re
from itertools import groupby
from typing import Any

from dub5.service import VERSION
from dub5.service.errors import GatewayError
from tests.experiments.openapi.operations import OPERATIONS, TURN_EVENTS, Operation
from tests.experiments.openapi.schemas import SCHEMAS, flag, number, ref, text

DESCRIPTION = """\
An OpenAI-compatible chat service over many unreliable AI providers. Official OpenAI packages need only its
base URL, `/v1` included. Every error has one shape; `code` comes from a closed list."""
TAGS = {
    "chat": "What any OpenAI client speaks.",
    "models": "What can be asked.",
    "sessions": "Browsers told apart by a cookie; only where `[session]` is set.",
    "conversations": "Conversations that are kept; only where `[conversation]` is set."
    " Each belongs to the session or the API key that began it.",
    "documents": "Texts of files that people upload; only where `[documents]` is set.",
    "decks": "Flashcards of documents; only where `[documents]` is set. Each belongs to who made it.",
    "jobs": "Work in the background; only where `[conversation]` is set. Each belongs to who asked for it.",
    "feedback": "What people say of answers, and of what is wrong.",
    "operations": "For operators and monitors.",
    "page": "For people.",
}
SECURITY = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key of this service, where it has any.",
    },
    "session": {"type": "apiKey", "in": "cookie", "name": "dub5", "description": "A session's cookie."},
    "admin": {"type": "http", "scheme": "bearer", "description": "The admin token."},
}
PARAMETERS = {
    "id": text("The id of a conversation, a deck, or feedback."),
    "turn": text("The id of a turn."),
    "job": text("The id of a job."),
    "after": number("The `seq` of the last message that was read, as `Last-Event-ID`; 0: all of them."),
    "name": text("A name."),
    "conversation": text("The id of a conversation."),
    "kind": text("Only of this kind.", enum=["answer", "issue", "crash"]),
    "value": number("Only with this value.", enum=[-1, 1]),
    "target": text("Only on answers of this target."),
    "state": text("Only in this state.", enum=["open", "done"]),
    "deep": flag("Check each component."),
    "limit": number("How many, at most.", minimum=1, maximum=100),
    "before": text("Only what comes after the one with this id, on the way back in time."),
}
REQUEST_HEADERS = {
    "x-deadline-ms": number("Until when the answer must be there, milliseconds from now."),
    "x-request-id": text("Your name for the request, for answers and log."),
    "x-dub5-delivery": text(
        "`live`: relay a stream; `whole`: send it when it is whole.", enum=["live", "whole"]
    ),
}
ANSWER_HEADERS = {
    "x-request-id": text("Names the request in the log."),
    "x-dub5-route": text("The route."),
    "x-dub5-target": text("Who answered: `provider/model`."),
    "x-dub5-trail": text("The attempts: `one/gpt=http_530;12ms, two/mistral=ok;40ms`."),
    "x-dub5-cache": text("`hit`, `stale` or `miss`, where the answer may be cached."),
    "x-dub5-degraded": text("The source of a fallback answer, which is no model's."),
}
SSE = "text/event-stream"
EVENTS = {
    "/v1/chat/completions": 'data: {"object": "chat.completion.chunk", ...}\n\ndata: [DONE]\n\n',
    "/v1/conversations/{id}/turns": TURN_EVENTS,
}


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    by_path = groupby(sorted(OPERATIONS, key=lambda one: one.path), key=lambda one: one.path)
    paths = {path: {one.method.lower(): _operation(one) for one in found} for path, found in by_path}
    kinds = dict.fromkeys(kind for operation in OPERATIONS for kind in operation.errors)
    order = {operation.path: place for place, operation in enumerate(OPERATIONS)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DUB5",
            "version": VERSION,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": dict(sorted(paths.items(), key=lambda item: order[item[0]])),
        "components": {
            "schemas": SCHEMAS,
            "examples": {kind.code: {"value": _error_example(kind)} for kind in kinds},
            "securitySchemes": SECURITY,
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tags": [operation.tag],
        "operationId": _operation_id(operation),
        "summary": operation.summary,
        "security": _security(operation),
        "parameters": _parameters(operation),
        "responses": {
            str(status): response
            for status, response in sorted([*_answers(operation), *_errors(operation.errors)])
        },
    }
    if operation.takes is not None:
        name, example = operation.takes
        if name in SCHEMAS:
            content = {"application/json": {"schema": ref(name), "example": example}}
        else:
            content = {name: {"schema": {"type": "string", "format": "binary"}, "example": example}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _operation_id(operation: Operation) -> str:
    words = re.findall(r"[a-z]+", operation.path.replace("/v1/", "/").replace(".json", ""))
    return "_".join([operation.method.lower(), *words])


def _security(operation: Operation) -> list[dict[str, list[str]]]:
    match operation.tag:
        case "chat" | "models":
            return [{}, {"key": []}]
        case "sessions" | "conversations" | "documents" | "decks" | "jobs" | "feedback":
            return [{"session": []}, {"key": []}]
    if operation.path.startswith("/admin"):
        return [{"admin": []}]
    return [{}, {"key": []}] if operation.errors else [{}]


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    places = [(name, "path") for name in re.findall(r"{(\w+)}", operation.path)]
    places += [(name, "query") for name in operation.query]
    found = [_parameter(name, place, PARAMETERS[name]) for name, place in places]
    headers = REQUEST_HEADERS if operation.headers else {}
    return found + [_parameter(name, "header", schema) for name, schema in headers.items()]


def _parameter(name: str, place: str, schema: dict[str, Any]) -> dict[str, Any]:
    schema = dict(schema)
    description = schema.pop("description")
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": schema,
    }


def _answers(operation: Operation) -> list[tuple[int, dict[str, Any]]]:
    return [(status, _answer(operation, *answer)) for status, answer in operation.answers.items()]


def _answer(operation: Operation, name: str, example: Any) -> dict[str, Any]:
    if not name:
        return {"description": "Nothing to send."}
    if "/" in name:
        return {"description": operation.summary + ".", "content": {name: {"example": example}}}
    content = {"application/json": {"schema": ref(name), "example": example}}
    if operation.streams:
        content[SSE] = {"schema": {"type": "string"}, "example": EVENTS[operation.path]}
    found: dict[str, Any] = {"description": SCHEMAS[name]["description"], "content": content}
    if operation.headers:
        found["headers"] = {name: {"schema": schema} for name, schema in ANSWER_HEADERS.items()}
    return found


def _errors(errors: tuple[type[GatewayError], ...]) -> list[tuple[int, dict[str, Any]]]:
    statuses = sorted({error.status for error in errors})
    return [(status, _error([e for e in errors if e.status == status])) for status in statuses]


def _error(kinds: list[type[GatewayError]]) -> dict[str, Any]:
    by_code = {kind.code: kind for kind in kinds}
    examples = {code: {"$ref": f"#/components/examples/{code}"} for code in by_code}
    lines = [f"`{code}`: {(kind.__doc__ or '').splitlines()[0]}" for code, kind in by_code.items()]
    content = {"application/json": {"schema": ref("Error"), "examples": examples}}
    return {"description": "\n".join(lines), "content": content}


def _error_example(kind: type[GatewayError]) -> dict[str, Any]:
    return {
        "error": {
            "message": f"{(kind.__doc__ or '').splitlines()[0]} {kind.suggestion}",
            "type": kind.type,
            "code": kind.code,
            "param": None,
            "id": "req_5af795a73e0703074c566b1c",
            "retry_after": 1.0 if kind.status in (429, 503) else None,
            "suggestion": kind.suggestion,
            "attempts": [],
        }
    }
