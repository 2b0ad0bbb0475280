"""Anthropic Messages, in both API versions that the official package has used."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from dub5.simulators.limits.rate import BucketState, LimitExceeded, by_kind
from dub5.simulators.personas.base import (
    FixedResponse,
    ParsedRequest,
    Persona,
    PersonaContext,
    Refusal,
    content_text,
    retry_after,
    streamed,
)
from dub5.simulators.personas.output import (
    ANY_JSON,
    SimulatedTool,
    TokenizedAnswer,
    ToolCall,
    Wanted,
    compose,
    schema_in,
)
from dub5.simulators.script import Script, SimRequest

VERSIONS = ("2023-06-01", "2026-10-21")
SAMPLING = ("temperature", "top_p", "top_k")  # rejected by the newer version
REQUIRED = ("max_tokens", "messages", "model")
FIELDS = """max_tokens messages model cache_control container context_management diagnostics inference_geo
    mcp_servers metadata output_config output_format service_tier speed stop_sequences system thinking
    tool_choice tools user_profile_id workspace_id stream temperature top_p top_k"""
KNOWN = frozenset(FIELDS.split())
JSON_ASKED = re.compile(r"\bJSON object\b", re.IGNORECASE)
TEXT_DELTA = b'{"type":"text_delta","text":%b}'
JSON_DELTA = b'{"type":"input_json_delta","partial_json":%b}'
TYPICAL = {  # status: type, message
    400: ("invalid_request_error", "invalid request"),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "Your credit balance is too low to access the API."),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "Not found"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
    500: ("api_error", "Internal server error"),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}


class AnthropicPersona(Persona):
    """`/v1/messages`."""

    name = "anthropic"
    chat_path = "/v1/messages"
    models = ("claude-sim", "claude-sim-haiku")

    def headers(self, context: PersonaContext) -> dict[str, str]:
        return {
            "request-id": f"req_{context.hex(24)}",
            "anthropic-organization-id": "00000000-0000-4000-8000-000000000000",
            "server": "cloudflare",
            "cf-ray": f"{context.hex(16)}-FRA",
            "via": "1.1 google",
        }

    def key_of(self, request: SimRequest) -> str:
        return request.headers.get("x-api-key", "") or super().key_of(request)

    def check(self, request: SimRequest, fields: Mapping[str, Any]) -> None:
        version = request.headers.get("anthropic-version")
        if version is None:
            raise Refusal(400, "anthropic-version: header is required")
        if version not in VERSIONS:
            raise Refusal(400, f'anthropic-version: "{version}" is not a valid version')
        for name in REQUIRED:
            if fields.get(name) is None:
                raise Refusal(400, f"{name}: Field required")
        for name in sorted(fields.keys() - KNOWN):
            raise Refusal(400, f"{name}: Extra inputs are not permitted")
        for name in SAMPLING:
            if version != VERSIONS[0] and name in fields:
                raise Refusal(400, f"{name}: not supported by anthropic-version {version}")
        temperature = fields.get("temperature", 0)
        if not isinstance(temperature, (int, float)) or not 0 <= temperature <= 1:
            raise Refusal(400, "temperature: range: 0..1")
        if not isinstance(fields["max_tokens"], int) or fields["max_tokens"] < 1:
            raise Refusal(400, "max_tokens: Input should be a whole number greater than or equal to 1")
        check_messages(fields["messages"])

    def chat(self, parsed: ParsedRequest, context: PersonaContext) -> Script:
        fields = parsed.fields or {}
        answer = compose(parsed, context, wanted(parsed), fields["max_tokens"])
        pace = context.profile.latency.pace(context.rng)
        if not parsed.stream:
            count = answer.count
            return self.json_response(200, message(parsed, context, answer), context).after(
                pace.whole(count), count
            )
        opening, tokens, closing = events(parsed, context, answer)
        return streamed(self.stream_head(context), opening, tokens, closing, pace)

    def refusal(self, refusal: Refusal, context: PersonaContext) -> FixedResponse:
        kind, _ = TYPICAL.get(refusal.status, ("invalid_request_error", ""))
        text = refusal.message
        match refusal.details.get("kind"):
            case "key":
                text = "invalid x-api-key" if text else "x-api-key header is required"
            case "path":
                text = "Not found"
            case "method":
                text = "Method Not Allowed"
            case "model":
                text = f"model: {text}"
        return self._error_response(refusal.status, kind, text, context)

    def error(self, status: int, context: PersonaContext) -> FixedResponse:
        kind, text = TYPICAL.get(status, ("api_error", "Internal server error"))
        return self._error_response(status, kind, text, context)

    def overloaded(self, context: PersonaContext) -> FixedResponse:
        return self.error(529, context)

    def limited(self, excess: LimitExceeded, context: PersonaContext) -> FixedResponse:
        state = excess.state
        unit = f"{state.what.replace('_', ' ')} per {state.span}"
        text = f"This request would exceed your organization's rate limit of {state.limit:,} {unit}"
        response = self._error_response(429, "rate_limit_error", text, context)
        return FixedResponse(429, {**response.headers, **retry_after(excess)}, response.body)

    def limit_headers(
        self, bucket_states: Sequence[BucketState], now_s: float, *, refused: bool
    ) -> dict[str, str]:
        found = {}
        for what, state in by_kind(bucket_states, "minute", "second", "day").items():
            stem, full_at = (
                f"anthropic-ratelimit-{what.replace('_', '-')}",
                math.ceil(now_s + state.reset_s),
            )
            found[f"{stem}-limit"] = str(state.limit)
            found[f"{stem}-remaining"] = str(state.remaining)
            found[f"{stem}-reset"] = f"{datetime.fromtimestamp(full_at, UTC):%Y-%m-%dT%H:%M:%SZ}"
        return found

    def error_event(self, context: PersonaContext) -> bytes:
        error = {"type": "overloaded_error", "message": "Overloaded"}
        body = {"type": "error", "error": error, "request_id": f"req_{context.hex(24)}"}
        return sse("error", msgspec.json.encode(body))

    def blank(self, body: bytes) -> bytes:
        answer = msgspec.json.decode(body)
        answer["content"], answer["stop_reason"] = [], "end_turn"
        answer["usage"]["output_tokens"] = 0
        return msgspec.json.encode(answer)

    def model_card(self, model: str, context: PersonaContext) -> dict[str, Any]:
        card = {"type": "model", "id": model, "display_name": model, "created_at": "2026-01-01T00:00:00Z"}
        return {**card, "lifecycle": "active"}

    def model_list(self, cards: list[dict[str, Any]]) -> dict[str, Any]:
        return {"data": cards, "has_more": False, "first_id": cards[0]["id"], "last_id": cards[-1]["id"]}

    def _error_response(self, status: int, kind: str, text: str, context: PersonaContext) -> FixedResponse:
        response = self.json_response(status, None, context)
        body = {
            "type": "error",
            "error": {"type": kind, "message": text},
            "request_id": response.headers["request-id"],
        }
        return FixedResponse(status, response.headers, msgspec.json.encode(body))


def check_messages(messages: object) -> None:
    """Check that these are messages of user and assistant. Raises Refusal."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise Refusal(400, "messages: Input should be a valid list")
    if not messages:
        raise Refusal(400, "messages: at least one message is required")
    for i, entry in enumerate(messages):
        role = entry.get("role")
        if role == "system":
            text = 'top-level `system` parameter, not "system" as an input message role.'
            raise Refusal(400, f'messages: Unexpected role "system". The Messages API accepts a {text}')
        if role not in ("user", "assistant"):
            raise Refusal(400, f"messages.{i}.role: Input should be 'user' or 'assistant'")
        if not entry.get("content"):
            raise Refusal(400, f"messages.{i}.content: Field required")


def wanted(parsed: ParsedRequest) -> Wanted:
    """Return the form of the answer that a request wants: by its tools, its schema or its instructions."""
    fields = parsed.fields or {}
    tools = list(filter(None, map(_tool, _listed(fields.get("tools")))))
    choice = fields.get("tool_choice")
    choice = choice if isinstance(choice, dict) else {"type": "auto"}
    if choice.get("type") == "tool":
        tools = [tool for tool in tools if tool.name == choice.get("name")]
    must_call = choice.get("type") in ("tool", "any")
    if choice.get("type") == "none" or (not must_call and _has_results(fields["messages"])):
        tools = []  # a good model reads the results, and answers
    return Wanted(tools, must_call, choice.get("disable_parallel_tool_use") is not True, _schema(parsed))


def _tool(tool: object) -> SimulatedTool | None:
    if not isinstance(tool, dict) or not tool.get("name"):
        return None
    schema = tool.get("input_schema") or ANY_JSON
    return SimulatedTool(str(tool["name"]), str(tool.get("description") or ""), schema)


def _has_results(messages: list[Any]) -> bool:
    parts = _listed(messages[-1].get("content"))
    return any(isinstance(part, dict) and part.get("type") == "tool_result" for part in parts)


def _schema(parsed: ParsedRequest) -> object:
    """Return the schema of an answer in JSON; None for a text."""
    fields = parsed.fields or {}
    config = fields.get("output_config")
    form = config.get("format") if isinstance(config, dict) else None
    if isinstance(form, dict) and form.get("type") == "json_schema":
        return form.get("schema") or ANY_JSON
    asked = JSON_ASKED.search(content_text(fields.get("system")))
    return schema_in(parsed.text) or (ANY_JSON if asked else None)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def message(parsed: ParsedRequest, context: PersonaContext, answer: TokenizedAnswer) -> dict[str, Any]:
    """Return the whole answer as one object."""
    blocks: list[dict[str, Any]] = [{"type": "text", "text": answer.text}] if not answer.calls else []
    for call in answer.calls:
        inputs = msgspec.Raw(call.arguments if answer.whole else "{}")
        block = {"type": "tool_use", "id": f"toolu_{context.hex(24)}", "name": call.name, "input": inputs}
        blocks.append(block)
    usage = {"input_tokens": parsed.prompt_tokens, "output_tokens": answer.count}
    usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {
        **envelope(parsed, context),
        "content": blocks,
        "stop_reason": stop_reason(answer),
        "usage": {**usage, "service_tier": "standard"},
    }


def envelope(parsed: ParsedRequest, context: PersonaContext) -> dict[str, Any]:
    """Return a message without content."""
    head = {"id": f"msg_{context.hex(24)}", "type": "message", "role": "assistant", "model": parsed.model}
    return {**head, "content": [], "stop_reason": None, "stop_sequence": None}


def events(
    parsed: ParsedRequest, context: PersonaContext, answer: TokenizedAnswer
) -> tuple[Iterable[bytes], Iterable[bytes], Iterable[bytes]]:
    """Return the stream: the events before the tokens, those of the tokens, the events after them."""
    begun = {**envelope(parsed, context), "usage": {"input_tokens": parsed.prompt_tokens, "output_tokens": 1}}
    opening = [typed("message_start", message=begun)]
    if answer.calls:
        tokens = _call_events(context, answer.calls)
    else:
        opening += [
            typed("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            typed("ping"),
        ]
        tokens = (_delta(0, TEXT_DELTA, token) for token in answer.tokens)
    end = {"stop_reason": stop_reason(answer), "stop_sequence": None}
    closing = [
        typed("content_block_stop", index=max(0, len(answer.calls) - 1)),
        typed("message_delta", delta=end, usage={"output_tokens": answer.count}),
        typed("message_stop"),
    ]
    return opening, tokens, closing


def _call_events(context: PersonaContext, calls: Sequence[ToolCall]) -> Iterable[bytes]:
    """Yield one event for each token; that of a call's first token also begins its block."""
    before = b""
    for index, call in enumerate(calls):
        block = {"type": "tool_use", "id": f"toolu_{context.hex(24)}", "name": call.name, "input": {}}
        before += typed("content_block_start", index=index, content_block=block)
        before += typed("ping") if index == 0 else b""
        for token in call.tokens:
            yield before + _delta(index, JSON_DELTA, token)
            before = b""
        before = typed("content_block_stop", index=index)


def _delta(index: int, form: bytes, token: str) -> bytes:
    delta = form % msgspec.json.encode(token)
    return sse(
        "content_block_delta", b'{"type":"content_block_delta","index":%d,"delta":%b}' % (index, delta)
    )


def stop_reason(answer: TokenizedAnswer) -> str:
    """Return the stop reason of the answer."""
    if not answer.whole:
        return "max_tokens"
    return "tool_use" if answer.calls else "end_turn"


def typed(kind: str, **fields: Any) -> bytes:
    """Return an event whose data repeats its name as `type`."""
    return sse(kind, msgspec.json.encode({"type": kind, **fields}))


def sse(event: str, data: bytes) -> bytes:
    """Return one server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)
