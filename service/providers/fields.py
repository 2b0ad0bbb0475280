"""A request's fields on their way to a provider: what a value says, and what this provider has its own way with.

passed      under its name, as it came
translated  the same meaning in other words
dropped     it only hints at how to answer: left out, and named in the trail
refused     leaving it out would answer another question: Unsupported, and the next target is asked
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from dub5.service.config.settings import DialectOverrides
from dub5.service.providers.base import Unsupported

NEUTRAL: Mapping[str, tuple[object, ...]] = {  # values that say nothing, beside null, false and what is empty
    "n": (1,),
    "top_p": (1,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "parallel_tool_calls": (True,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "service_tier": ("auto",),
}
JsonObject = dict[str, Any]

PART = "messages.content."
ONLY_NAMED_FALSE = frozenset({"parallel_tool_calls"})  # here false says something


def decode_field(name: str, raw: Raw) -> Any:
    """A field's value. Raises Unsupported for text that no JSON decoder takes."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unsupported(name[:64]) from None


def is_neutral(name: str, value: object) -> bool:
    """Whether a field with this value might as well be absent."""
    if value is None or value == [] or value == {} or value == "":
        return True
    if value is False and name not in ONLY_NAMED_FALSE:
        return True
    return any((value == one and type(value) is not bool) or value is one for one in NEUTRAL.get(name, ()))


def apply_overrides(
    fields: Mapping[str, Raw], overrides: DialectOverrides
) -> tuple[dict[str, Raw], list[str]]:
    """The fields as a provider's settings want them, and the names of those left out. Raises Unsupported."""
    if not (overrides.renames or overrides.drops or overrides.refuses) and overrides.developer_role:
        return dict(fields), []
    taken: dict[str, Raw] = {}
    dropped: list[str] = []
    _refuse_parts(fields, [n for n in overrides.refuses if n.startswith(PART)])
    for name, raw in fields.items():
        there = overrides.renames.get(name, name)
        if name in overrides.refuses and not is_neutral(name, decode_field(name, raw)):
            raise Unsupported(name)
        if name in overrides.refuses or name in overrides.drops or (there != name and there in fields):
            if not is_neutral(name, decode_field(name, raw)):
                dropped.append(name)
        else:
            taken[there] = raw
    inner = frozenset(n.removeprefix("messages.") for n in overrides.drops if n.startswith("messages."))
    if "messages" in taken and (inner or not overrides.developer_role):
        taken["messages"], pop_fields = _messages(taken["messages"], inner, overrides.developer_role)
        dropped += pop_fields
    return taken, dropped


def _refuse_parts(fields: Mapping[str, Raw], refused: list[str]) -> None:
    """`messages.content.image_url` stands for parts of that type. Raises Unsupported."""
    if not refused or "messages" not in fields:
        return
    for message in decode_field("messages", fields["messages"]):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if (name := f"{PART}{part.get('type')}") in refused:
                raise Unsupported(name)


def _messages(raw: Raw, drops: frozenset[str], developer_role: bool) -> tuple[Raw, list[str]]:
    messages, dropped = decode_field("messages", raw), []
    for message in messages:
        dropped += pop_fields(message, message.keys() & drops)
        if message.get("role") == "developer" and not developer_role:
            message["role"] = "system"
    return (Raw(msgspec.json.encode(messages)) if dropped or not developer_role else raw), dropped


def pop_fields(message: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Takes fields out of a message; the ones that said something, by name."""
    values = {name: message.pop(name) for name in sorted(names)}
    return [f"messages.{name}" for name, value in values.items() if not is_neutral(name, value)]
