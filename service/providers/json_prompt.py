"""`response_format: json_object` where no target has such a mode: the prompt asks for the object instead.

Call `with_json_prompt(request)`. It is for routes where no target has the mode (`Gateway.new_context`).
"""

import msgspec
from msgspec import Raw

from dub5.service.model import ChatRequest
from dub5.service.providers.fields import JsonObject, decode_field

FIELD = "response_format"
INSTRUCTION = (
    "Answer with exactly one JSON object and nothing else: no text before or after it, and no code fence."
)


def with_json_prompt(request: ChatRequest) -> ChatRequest:
    """Return the request with the instruction in its system message, and without the field."""
    messages = decode_field("messages", request.fields["messages"])
    fields = {**request.fields, "messages": Raw(msgspec.json.encode(_instructed(messages)))}
    del fields[FIELD]
    return msgspec.structs.replace(request, fields=fields)


def _instructed(messages: list[JsonObject]) -> list[JsonObject]:
    """Return the messages with the instruction at the end of the first one, which is a system message."""
    first = messages[0]
    if first["role"] not in ("system", "developer"):
        return [{"role": "system", "content": INSTRUCTION}, *messages]
    content = first.get("content") or ""
    if isinstance(content, list):
        content = [*content, {"type": "text", "text": INSTRUCTION}]
    else:
        content = f"{content}\n\n{INSTRUCTION}".strip()
    return [{**first, "content": content}, *messages[1:]]
