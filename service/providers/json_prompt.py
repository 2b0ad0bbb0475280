"""`response_format: json_object` where no target has such a mode: the prompt asks for the object instead.

Call `with_json_prompt(request)`. It is for routes where no target has the mode (`Gateway.new_context`).
"""

import msgspec
from msgspec import Raw

from dub5.service.model import ChatRequest
from dub5.service.providers.fields import LEVELS, JsonObject
from dub5.service.providers.slices import LIST, Steps, decode_lazily, encode_list

FIELD = "response_format"
INSTRUCTION = (
    "Answer with exactly one JSON object and nothing else: no text before or after it, and no code fence."
)


def with_json_prompt(request: ChatRequest) -> Steps[ChatRequest]:
    """Return the request with the instruction in its system message, and without the field."""
    first, *others = LIST.decode(request.fields["messages"])  # only the first one is read
    message = yield from decode_lazily(first, LEVELS["messages"] - 1)
    if message["role"] in ("system", "developer"):
        messages = [{**message, "content": _instructed(message.get("content"))}, *others]
    else:
        messages = [{"role": "system", "content": INSTRUCTION}, first, *others]
    fields = {**request.fields, "messages": (yield from encode_list(messages))}
    del fields[FIELD]
    return msgspec.structs.replace(request, fields=fields)


def _instructed(content: str | Raw | list[JsonObject] | None) -> str | list[JsonObject]:
    """Return the content with the instruction at its end."""
    if not content:
        return INSTRUCTION
    more = f"\n\n{INSTRUCTION}"
    if isinstance(content, str):
        return content + more
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return [*parts, {"type": "text", "text": more}]
