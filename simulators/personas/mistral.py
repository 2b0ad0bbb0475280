"""Mistral: only its differences from OpenAI."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dub5.simulators.limits.rate import BucketState, LimitExceeded
from dub5.simulators.personas.base import (
    FixedResponse,
    ParsedRequest,
    Persona,
    PersonaContext,
    Refusal,
)
from dub5.simulators.personas.openai import DONE, OpenAIPersona, envelope, finish, usage
from dub5.simulators.personas.output import TokenizedAnswer, ToolCall
from dub5.simulators.script import SimRequest

FIELDS = """model messages temperature top_p top_k max_tokens min_tokens stream stop random_seed metadata n
    prediction response_format tools tool_choice parallel_tool_calls presence_penalty frequency_penalty
    repetition_penalty logprobs top_logprobs prompt_logprobs top_prompt_logprobs reasoning_effort
    prompt_mode guardrails safe_prompt prompt_cache_key service_tier"""
KNOWN = frozenset(FIELDS.split())
TYPICAL: dict[int, tuple[str, str, str | None]] = {  # status: message, type, code
    429: ("Rate limit exceeded", "rate_limited", "1300"),
    500: ("Internal server error", "internal_server_error", "1000"),
    503: ("Service tier capacity exceeded for this model.", "invalid_request_error", None),
}


class MistralPersona(OpenAIPersona):
    """`/v1/chat/completions`, which rejects unknown fields."""

    name = "mistral"
    models = ("mistral-sim", "mistral-sim-small")
    id_prefix = ""

    def headers(self, context: PersonaContext) -> dict[str, str]:
        return {"mistral-correlation-id": context.hex(32)}

    def check(self, request: SimRequest, fields: Mapping[str, Any]) -> None:
        wrong = [
            _problem(name, "missing", "Field required")
            for name in ("model", "messages")
            if name not in fields
        ]
        messages = fields.get("messages", [])
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            wrong.append(_problem("messages", "list_type", "Input should be a valid list"))
        limit = fields.get("max_tokens")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            wrong.append(
                _problem("max_tokens", "greater_than_equal", "Input should be a whole number from 1 up")
            )
        if fields.get("n") not in (None, 1):
            wrong.append(_problem("n", "less_than_equal", "Input should be 1 in this simulation"))
        for name in fields.keys() - KNOWN:
            wrong.append(_problem(name, "extra_forbidden", "Extra inputs are not permitted"))
        if wrong:
            raise Refusal(422, "", detail=wrong)

    def completion(
        self, parsed: ParsedRequest, context: PersonaContext, answer: TokenizedAnswer
    ) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": finish(answer), "message": self.message(context, answer)}
        head = envelope(context.hex(32), "chat.completion", parsed, context)
        return {**head, "choices": [choice], "usage": usage(parsed, answer)}

    def message(self, context: PersonaContext, answer: TokenizedAnswer) -> dict[str, Any]:
        if not answer.calls:
            return {"role": "assistant", "tool_calls": None, "content": answer.text}
        return {"role": "assistant", "tool_calls": _calls(context, answer.calls), "content": ""}

    def events(
        self, parsed: ParsedRequest, context: PersonaContext, answer: TokenizedAnswer
    ) -> tuple[Iterable[bytes], Iterable[bytes], Iterable[bytes]]:
        head = envelope(context.hex(32), "chat.completion.chunk", parsed, context)
        stem = b"data: " + msgspec.json.encode(head)[:-1] + b',"choices":['

        def event(delta: bytes, reason: bytes = b"null", more: bytes = b"") -> bytes:
            choice = b'{"index":0,"delta":%b,"finish_reason":%b}' % (delta, reason)
            return stem + choice + b"]" + more + b"}\n\n"

        first = [event(b'{"role":"assistant","content":""}')]
        counts = b',"usage":' + msgspec.json.encode(usage(parsed, answer))
        reason = b'"%b"' % finish(answer).encode()
        if answer.calls:  # they come in one piece
            calls = msgspec.json.encode({"content": "", "tool_calls": _calls(context, answer.calls)})
            return first, [event(calls, reason, counts)], [DONE]
        tokens = (event(b'{"content":%b}' % msgspec.json.encode(token)) for token in answer.tokens)
        return first, tokens, [event(b'{"content":""}', reason, counts), DONE]

    def refusal(self, refusal: Refusal, context: PersonaContext) -> FixedResponse:
        detail: object = refusal.details.get("detail")
        match refusal.details.get("kind"):
            case "key":
                detail = "Unauthorized"
            case "method":
                detail = "Method Not Allowed"
            case "model":
                detail = f"Model not found: {refusal.message}"
            case "path":
                body = {"message": "no Route matched with those values", "request_id": context.hex(32)}
                return self.json_response(404, body, context)
        return self.json_response(refusal.status, {"detail": detail}, context)

    def not_json(self) -> Refusal:
        return Refusal(
            422, "", detail=[{"loc": ["body", 0], "msg": "JSON decode error", "type": "json_invalid"}]
        )

    def error(self, status: int, context: PersonaContext) -> FixedResponse:
        if status == 401:
            return self.json_response(401, {"detail": "Unauthorized"}, context)
        if status == 422:
            detail = [_problem("messages", "value_error", "Value error")]
            return self.json_response(422, {"detail": detail}, context)
        message, kind, code = TYPICAL.get(status, (f"Error {status}", "invalid_request_error", None))
        body = {"object": "error", "message": message, "type": kind, "param": None, "code": code}
        return self.json_response(
            status, {**body, "raw_status_code": status} if status == 429 else body, context
        )

    def limited(self, excess: LimitExceeded, context: PersonaContext) -> FixedResponse:
        return Persona.limited(self, excess, context)

    def limit_headers(
        self, bucket_states: Sequence[BucketState], now_s: float, *, refused: bool
    ) -> dict[str, str]:
        left = [s.remaining for s in bucket_states if s.what == "requests"]
        return {"x-ratelimit-remaining": str(min(left))} if left else {}

    def error_event(self, context: PersonaContext) -> bytes:
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        head = {
            "id": context.hex(32),
            "object": "chat.completion.chunk",
            "created": context.created,
            "model": "",
        }
        return b"data: " + msgspec.json.encode({**head, "choices": [choice]}) + b"\n\n"

    def model_card(self, model: str, context: PersonaContext) -> dict[str, Any]:
        card = {
            "id": model,
            "object": "model",
            "created": context.created,
            "owned_by": "mistralai",
            "type": "base",
        }
        return {**card, "capabilities": {"completion_chat": True, "function_calling": True}}


def _problem(field: str, kind: str, message: str) -> dict[str, Any]:
    return {"loc": ["body", field], "msg": message, "type": kind}


def _calls(context: PersonaContext, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    return [
        {"id": context.hex(9), "function": {"name": call.name, "arguments": call.arguments}, "index": index}
        for index, call in enumerate(calls)
    ]
