"""Request fields on their way to a provider: neutral values, and the overrides in a provider's settings.

passed      under its name, unchanged
translated  the same meaning in the provider's format
dropped     only a hint at how to answer: left out, and named in the trail
refused     without it the answer would be to a different question: Unsupported, failover to the next target
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from dub5.service.config.settings import DialectOverrides
from dub5.service.providers.base import Unsupported
from dub5.service.providers.slices import LARGE_BYTES, Steps, StepSize, decode_lazily, encode_list, finish

# Values that mean the same as an absent field, in addition to null, false and empty ones.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
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
# To the url of an image; to the fields of a tool's parameters; all of them.
LEVELS = {"messages": 5, "tools": 4, "response_format": 64}
LEVELS_OTHER = 64
JsonObject = dict[str, Any]

PART = "messages.content."
ONLY_NAMED_FALSE = frozenset({"parallel_tool_calls"})  # fields where false has a meaning


def decode_field(name: str, raw: Raw) -> Any:
    """Decode a field's value. Raises Unsupported for invalid JSON."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unsupported(name[:64]) from None


def decode_in_steps(name: str, raw: Raw) -> Steps[Any]:
    """Decode a field's value; large texts in it stay Raw. Raises Unsupported for invalid JSON."""
    try:
        return (yield from decode_lazily(raw, LEVELS.get(name, LEVELS_OTHER)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unsupported(name[:64]) from None


def is_large(raw: Raw) -> bool:
    """Return whether decoding a field in one step would hold up others."""
    return memoryview(raw).nbytes > LARGE_BYTES


def is_neutral(name: str, value: object) -> bool:
    """Return whether a field with this value means the same as an absent field."""
    if value is None or value == [] or value == {} or value == "":
        return True
    if value is False and name not in ONLY_NAMED_FALSE:
        return True
    neutral = NEUTRAL.get(name, ())
    return any((value == other and type(value) is not bool) or value is other for other in neutral)


def is_meant(name: str, raw: Raw) -> bool:
    """Return whether a field is more than an absent one. Large ones are not read. Raises Unsupported."""
    return is_large(raw) or not is_neutral(name, decode_field(name, raw))


def apply_overrides(
    fields: Mapping[str, Raw], overrides: DialectOverrides
) -> tuple[dict[str, Raw], list[str]]:
    """Return the fields after a provider's overrides, and the names of dropped ones. Raises Unsupported."""
    if not (overrides.renames or overrides.drops or overrides.refuses) and overrides.developer_role:
        return dict(fields), []
    return finish(overrides_in_steps(fields, overrides))


def overrides_in_steps(
    fields: Mapping[str, Raw], overrides: DialectOverrides
) -> Steps[tuple[dict[str, Raw], list[str]]]:
    """Do what `apply_overrides` does, in steps. Raises Unsupported."""
    taken: dict[str, Raw] = {}
    dropped: list[str] = []
    pace = StepSize()
    yield from _refuse_parts(fields, [n for n in overrides.refuses if n.startswith(PART)], pace)
    for name, raw in fields.items():
        if pace.is_over():
            yield
        there = overrides.renames.get(name, name)
        if name in overrides.refuses and is_meant(name, raw):
            raise Unsupported(name)
        if name in overrides.refuses or name in overrides.drops or (there != name and there in fields):
            if is_meant(name, raw):
                dropped.append(name)
        else:
            taken[there] = raw
    inner = frozenset(n.removeprefix("messages.") for n in overrides.drops if n.startswith("messages."))
    if "messages" in taken and (inner or not overrides.developer_role):
        taken["messages"] = yield from _messages(
            taken["messages"], inner, overrides.developer_role, dropped, pace
        )
    return taken, dropped


def _refuse_parts(fields: Mapping[str, Raw], refused: list[str], pace: StepSize) -> Steps[None]:
    """Raise Unsupported for a refused content part; `messages.content.image_url` means parts of that type."""
    if not refused or "messages" not in fields:
        return
    for message in (yield from decode_in_steps("messages", fields["messages"])):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if pace.is_over():
                yield
            if (name := f"{PART}{part.get('type')}") in refused:
                raise Unsupported(name)


def _messages(
    raw: Raw, drops: frozenset[str], developer_role: bool, dropped: list[str], pace: StepSize
) -> Steps[Raw]:
    messages = yield from decode_in_steps("messages", raw)
    before = len(dropped)
    for message in messages:
        if pace.is_over():
            yield
        dropped += pop_fields(message, message.keys() & drops)
        if message.get("role") == "developer" and not developer_role:
            message["role"] = "system"
    return (yield from encode_list(messages)) if len(dropped) > before or not developer_role else raw


def pop_fields(message: dict[str, Any], names: Iterable[str], path: str = "messages.") -> list[str]:
    """Remove fields from a message; return the names of those with a value that was not neutral."""
    values = {name: message.pop(name) for name in sorted(names)}
    return [f"{path}{name}" for name, value in values.items() if not is_neutral(name, value)]
