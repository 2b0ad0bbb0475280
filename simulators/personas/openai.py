"""OpenAI chat completions and embeddings, as the official package reads and writes them."""

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dub5.simulators.limits.rate import BucketState, LimitExceeded, by_kind
from dub5.simulators.personas.base import (
    FixedResponse,
    ParsedRequest,
    Persona,
    PersonaContext,
    Refusal,
    last_role,
    retry_after,
    streamed,
)
from dub5.simulators.personas.embeddings import embeddings
from dub5.simulators.personas.limit_words import limit_error, ratelimit_headers
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

DONE = b"data: [DONE]\n\n"
SORRY = "The server had an error while processing your request. Sorry about that!"
NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
    "library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
)
NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
    "auth (i.e. Authorization: Bearer YOUR_KEY)."
)
RATE_LIMIT = (
    "Rate limit reached for gpt-sim in organization org-sim on requests per min (RPM): Limit 500, Used 500, "
    "Requested 1. Please try again in 20s. "
    "Visit https://platform.openai.com/account/rate-limits to learn more."
)
TYPICAL: dict[int, tuple[str, str, str | None]] = {  # status: message, type, code
    400: ("Invalid request.", "invalid_request_error", None),
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    403: (
        "Country, region, or territory not supported",
        "request_forbidden",
        "unsupported_country_region_territory",
    ),
    404: (
        "The model does not exist or you do not have access to it.",
        "invalid_request_error",
        "model_not_found",
    ),
    429: (RATE_LIMIT, "requests", "rate_limit_exceeded"),
    503: (
        "The engine is currently overloaded, please try again later",
        "service_unavailable_error",
        "server_is_overloaded",
    ),
}


class OpenAIPersona(Persona):
    """`/v1/chat/completions` and `/v1/embeddings`."""

    name = "openai"
    chat_path = "/v1/chat/completions"
    other_paths: tuple[str, ...] = ("/v1/embeddings",)
    models = ("gpt-sim", "gpt-sim-mini")
    id_prefix = "chatcmpl-"
    tool_id_prefix = "call_"

    def headers(self, context: PersonaContext) -> dict[str, str]:
        return {
            "x-request-id": f"req_{context.hex(32)}",
            "openai-organization": "org-sim",
            "openai-processing-ms": "12",
            "openai-version": "2020-10-01",
        }

    def check(self, request: SimRequest, fields: Mapping[str, Any]) -> None:
        if not fields.get("model"):
            raise Refusal(400, "you must provide a model parameter")
        messages = fields.get("messages")
        if messages is None:
            code = "missing_required_parameter"
            raise Refusal(400, "Missing required parameter: 'messages'.", param="messages", code=code)
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            message = "Invalid type for 'messages': expected an array of objects."
            raise Refusal(400, message, param="messages", code="invalid_type")
        if not messages:
            message = "Invalid 'messages': empty array. Expected an array with minimum length 1."
            raise Refusal(400, message, param="messages", code="empty_array")
        if fields.get("stream_options") is not None and fields.get("stream") is not True:
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise Refusal(400, message, param="stream_options")
        for param in ("max_tokens", "max_completion_tokens"):
            check_minimum(fields, param)
        if fields.get("n") not in (None, 1):
            raise Refusal(400, "Only n = 1 is simulated.", param="n", code="unsupported_value")

    def chat(self, parsed: ParsedRequest, context: PersonaContext) -> Script:
        fields = parsed.fields or {}
        tokens_max = fields.get("max_completion_tokens") or fields.get("max_tokens")
        answer = compose(parsed, context, wanted(parsed), tokens_max)
        pace = context.profile.latency.pace(context.rng)
        if not parsed.stream:
            count = answer.count
            return self.json_response(200, self.completion(parsed, context, answer), context).after(
                pace.whole(count), count
            )
        opening, tokens, closing = self.events(parsed, context, answer)
        return streamed(self.stream_head(context), opening, tokens, closing, pace)

    def other(self, path: str, fields: Mapping[str, Any], context: PersonaContext) -> Script:
        body = embeddings(fields)
        pace = context.profile.latency.pace(context.rng)
        return self.json_response(200, body, context).after(pace.whole(1), 1)

    def completion(
        self, parsed: ParsedRequest, context: PersonaContext, answer: TokenizedAnswer
    ) -> dict[str, Any]:
        """Return the whole answer as one object."""
        message = {**self.message(context, answer), "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish(answer)}
        details = {
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }
        return {
            **envelope(self.id_prefix + context.hex(24), "chat.completion", parsed, context),
            "choices": [choice],
            "usage": {**usage(parsed, answer), **details},
            "service_tier": "default",
            "system_fingerprint": "fp_sim",
        }

    def message(self, context: PersonaContext, answer: TokenizedAnswer) -> dict[str, Any]:
        """Return the assistant's message: a text or tool calls."""
        if not answer.calls:
            return {"role": "assistant", "content": answer.text}
        calls = [self.call(context, call, call.arguments) for call in answer.calls]
        return {"role": "assistant", "content": None, "tool_calls": calls}

    def call(self, context: PersonaContext, call: ToolCall, arguments: str) -> dict[str, Any]:
        """Return a tool call with these arguments."""
        function = {"name": call.name, "arguments": arguments}
        return {"id": self.tool_id_prefix + context.hex(24), "type": "function", "function": function}

    def events(
        self, parsed: ParsedRequest, context: PersonaContext, answer: TokenizedAnswer
    ) -> tuple[Iterable[bytes], Iterable[bytes], Iterable[bytes]]:
        """Return the stream: the events before the tokens, one event per token, the events after them."""
        options = (parsed.fields or {}).get("stream_options")
        wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        head = envelope(self.id_prefix + context.hex(24), "chat.completion.chunk", parsed, context)
        head |= {"service_tier": "default", "system_fingerprint": "fp_sim"}
        stem = b"data: " + msgspec.json.encode(head)[:-1] + b',"choices":['
        tail = b'],"usage":null}\n\n' if wants_usage else b"]}\n\n"

        def event(delta: bytes, reason: bytes = b"null") -> bytes:
            choice = b'{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}' % (delta, reason)
            return stem + choice + tail

        opening = b'{"role":"assistant","content":"","refusal":null}'
        deltas = (b'{"content":%b}' % msgspec.json.encode(token) for token in answer.tokens)
        if answer.calls:
            deltas = self._call_deltas(context, answer.calls)
            opening = next(deltas)
        closing = [event(b"{}", b'"%b"' % finish(answer).encode())]
        if wants_usage:
            closing.append(stem + b'],"usage":' + msgspec.json.encode(usage(parsed, answer)) + b"}\n\n")
        return [event(opening)], map(event, deltas), [*closing, DONE]

    def _call_deltas(
        self, context: PersonaContext, calls: Sequence[ToolCall]
    ) -> Generator[bytes, None, None]:
        """Yield the deltas: each call begins without arguments, which follow token by token."""
        message: dict[str, Any] = {"role": "assistant", "content": None}
        for index, call in enumerate(calls):
            begun = {"index": index, **self.call(context, call, "")}
            yield msgspec.json.encode({**message, "tool_calls": [begun]})
            message = {}
            for token in call.tokens:
                yield msgspec.json.encode(
                    {"tool_calls": [{"index": index, "function": {"arguments": token}}]}
                )

    def refusal(self, refusal: Refusal, context: PersonaContext) -> FixedResponse:
        message, param, code = refusal.message, refusal.details.get("param"), refusal.details.get("code")
        match refusal.details.get("kind"):
            case "key" if not message:
                message = NO_KEY
            case "key":
                message, code = f"Incorrect API key provided: {message[:7]}***.", "invalid_api_key"
            case "method":
                message += " (HINT: Perhaps you meant to use a different HTTP method?)"
                code = "method_not_supported"
            case "model":
                param, code = "model", "model_not_found"
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        return self.json_response(refusal.status, {"error": error}, context)

    def not_json(self) -> Refusal:
        return Refusal(400, NOT_JSON)

    def error(self, status: int, context: PersonaContext) -> FixedResponse:
        message, kind, code = TYPICAL.get(status, (SORRY, "server_error", None))
        return self.json_response(
            status, {"error": {"message": message, "type": kind, "param": None, "code": code}}, context
        )

    def limited(self, excess: LimitExceeded, context: PersonaContext) -> FixedResponse:
        response = self.json_response(429, {"error": limit_error(excess, self.models[0])}, context)
        ms = {} if excess.too_large else {"retry-after-ms": str(math.ceil(excess.wait_s * 1000))}
        return FixedResponse(429, {**response.headers, **retry_after(excess), **ms}, response.body)

    def limit_headers(
        self, bucket_states: Sequence[BucketState], now_s: float, *, refused: bool
    ) -> dict[str, str]:
        return ratelimit_headers(by_kind(bucket_states, "minute", "second", "day"))

    def error_event(self, context: PersonaContext) -> bytes:
        error = {"message": SORRY, "type": "server_error", "param": None, "code": None}
        return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"

    def blank(self, body: bytes) -> bytes:
        answer = msgspec.json.decode(body)
        if "choices" not in answer:
            return msgspec.json.encode({**answer, "data": []})
        message = answer["choices"][0]["message"]
        message["content"] = ""
        message.pop("tool_calls", None)
        answer["choices"][0]["finish_reason"] = "stop"
        answer["usage"] |= {"completion_tokens": 0, "total_tokens": answer["usage"]["prompt_tokens"]}
        return msgspec.json.encode(answer)

    def model_card(self, model: str, context: PersonaContext) -> dict[str, Any]:
        return {"id": model, "object": "model", "created": 1_763_700_000, "owned_by": "simulators"}


def envelope(id: str, kind: str, parsed: ParsedRequest, context: PersonaContext) -> dict[str, Any]:
    """Return the first fields of a completion and of each of its chunks."""
    return {"id": id, "object": kind, "created": context.created, "model": parsed.model}


def check_minimum(fields: Mapping[str, Any], param: str) -> None:
    """Check that the field is absent or a whole number from 1 up. Raises Refusal."""
    value = fields.get(param)
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        message = f"Invalid type for '{param}': expected an integer."
        raise Refusal(400, message, param=param, code="invalid_type")
    if value < 1:
        message = (
            f"Invalid '{param}': integer below minimum value. Expected a value >= 1, but got {value} instead."
        )
        raise Refusal(400, message, param=param, code="integer_below_min_value")


def wanted(parsed: ParsedRequest) -> Wanted:
    """Return the form of the answer that a request in OpenAI's format wants."""
    fields = parsed.fields or {}
    choice, tools = fields.get("tool_choice"), list(filter(None, map(_tool, _listed(fields.get("tools")))))
    if isinstance(choice, dict):
        named = _function(choice).get("name")
        tools = [tool for tool in tools if tool.name == named]
    must_call = isinstance(choice, dict) or choice in ("required", "any")
    if choice == "none" or (not must_call and last_role(fields) == "tool"):
        tools = []  # a good model reads the results, and answers
    parallel = fields.get("parallel_tool_calls") is not False
    return Wanted(tools, must_call, parallel, _schema(parsed, fields.get("response_format")))


def _tool(tool: object) -> SimulatedTool | None:
    function = _function(tool)
    if not function.get("name"):
        return None
    schema = function.get("parameters") or ANY_JSON
    return SimulatedTool(str(function["name"]), str(function.get("description") or ""), schema)


def _function(tool: object) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    return function if isinstance(function, dict) else {}


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _schema(parsed: ParsedRequest, response_format: object) -> object:
    """Return the schema of an answer in JSON; None for a text."""
    form = response_format if isinstance(response_format, dict) else {}
    if form.get("type") == "json_schema" and isinstance(form.get("json_schema"), dict):
        return form["json_schema"].get("schema") or ANY_JSON
    return schema_in(parsed.text) or (ANY_JSON if form.get("type") == "json_object" else None)


def finish(answer: TokenizedAnswer) -> str:
    """Return the finish reason of the answer."""
    if not answer.whole:
        return "length"
    return "tool_calls" if answer.calls else "stop"


def usage(parsed: ParsedRequest, answer: TokenizedAnswer) -> dict[str, int]:
    """Return the token counts of prompt and answer."""
    prompt, completion = parsed.prompt_tokens, answer.count
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
