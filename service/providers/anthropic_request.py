"""Translates a chat completion request to Anthropic's Messages API. Call `translate(...)`.

system, developer turns      -> system
user, assistant turns        -> the same; adjacent turns of one role are merged
assistant tool_calls         -> tool_use blocks        tool turns -> tool_result blocks of a user turn
image_url parts              -> image blocks           tools, tool_choice -> tools, tool_choice
response_format json_schema  -> output_config.format   user -> metadata.user_id
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from dub5.service.providers.base import Unsupported
from dub5.service.providers.conversation import BEGIN, pair_calls
from dub5.service.providers.fields import (
    JsonObject,
    decode_field,
    decode_in_steps,
    is_large,
    is_neutral,
    pop_fields,
)
from dub5.service.providers.slices import (
    ITEM_BYTES,
    Steps,
    StepSize,
    encode_list,
    in_full,
    is_blank_text,
    joined,
)

OLD_VERSION = "2023-06-01"
TRANSLATED = frozenset(
    ("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "stop")
    + ("temperature", "top_p", "top_k", "tools", "tool_choice", "parallel_tool_calls", "response_format")
    + ("user", "safety_identifier")
)
REFUSED = frozenset(  # without these fields the provider would answer a different question
    ("n", "functions", "function_call", "logprobs", "top_logprobs", "audio", "modalities")
    + ("web_search_options",)
)
SAMPLING = ("temperature", "top_p", "top_k")  # answered with 400 by versions after OLD_VERSION
MESSAGE_FIELDS = {
    "system": frozenset({"role", "content"}),
    "developer": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "refusal", "tool_calls"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
}
TOOL_CHOICES = {"auto": "auto", "none": "none", "required": "any"}
ALTERNATIVES = frozenset({"anyOf", "oneOf", "allOf"})
USER_CHARS_MAX = 256
IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
MANY = 1000  # values of a list, from which on they are encoded in steps
ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
DATA_URL = re.compile(r"data:([a-z]+/[a-z0-9.+-]+);base64,", re.IGNORECASE)


def translate(
    fields: Mapping[str, Raw], model: str, api_version: str, max_tokens: int
) -> Steps[tuple[JsonObject, list[str]]]:
    """Return the call's body and the names of the dropped fields. Raises Unsupported."""
    given: JsonObject = {}
    dropped: list[str] = []
    pace, large = StepSize(), False
    for name, raw in fields.items():
        if pace.is_over():
            yield
        if is_large(raw):
            large = True
            yield
            # What is not translated need not be read.
            value = (yield from decode_in_steps(name, raw)) if name in TRANSLATED else raw
        else:
            value = decode_field(name, raw)
        if is_neutral(name, value):
            continue
        if name in REFUSED:
            raise Unsupported(name)
        if name in TRANSLATED:
            given[name] = value
        else:
            dropped.append(name)
    limit = given.get("max_completion_tokens") or given.get("max_tokens") or max_tokens
    call: JsonObject = {"model": model, "max_tokens": limit}
    call |= yield from _conversation(given["messages"], dropped)
    if stop := given.get("stop"):
        call["stop_sequences"] = stops = [stop] if isinstance(stop, str) else stop
        if not all(str(sequence).strip() for sequence in stops):  # the endpoint rejects blank ones
            raise Unsupported("stop")
    call |= _sampling(given, api_version, dropped) | _tools(given, dropped)
    call |= (yield from _format(given.get("response_format"))) | _user(given, dropped)
    dropped += [
        f"stream_options.{name}" for name in given.get("stream_options", {}) if name != "include_usage"
    ]
    if given.get("stream"):
        call["stream"] = True
    if large:
        yield
    return call, dropped


def _conversation(messages: list[JsonObject], dropped: list[str]) -> Steps[JsonObject]:
    system: list[str | Raw] = []
    turns: list[JsonObject] = []
    pace = StepSize()
    for index, message in enumerate((yield from pair_calls(messages, ID_PATTERN, "call_", 24))):
        if pace.is_over():
            yield
        path, role = f"messages[{index}]", message["role"]
        if role not in MESSAGE_FIELDS:
            raise Unsupported(f"{path}.role")
        if others := message.keys() - MESSAGE_FIELDS[role]:
            dropped += pop_fields(message, others)
        if role in ("system", "developer"):
            system.append((yield from _text(message.get("content"), path, dropped, pace)))
        elif blocks := (yield from _blocks(message, path, dropped, pace)):
            _append_turn(turns, "assistant" if role == "assistant" else "user", blocks)
    text = joined([one for one in system if one], "\n\n")
    if not turns:  # the endpoint requires a turn: instructions alone become the user's message
        if not text:
            raise Unsupported("messages")
        return {"messages": [{"role": "user", "content": text}]}
    if turns[0]["role"] == "assistant":  # and that the user begins
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": BEGIN}]})
    for turn in turns:
        if pace.is_over(ITEM_BYTES * len(turn["content"])):
            yield
        turn["content"] = _text_or_blocks(turn["content"])
    if turns[-1]["role"] == "assistant":
        yield from _end_without_blank(turns[-1])
    sent = (yield from encode_list(turns)) if len(messages) > MANY else turns
    return {"messages": sent} | ({"system": text} if text else {})


def _end_without_blank(turn: JsonObject) -> Steps[None]:
    """Remove the white space at the end of a turn that is to be continued: the endpoint rejects it."""
    if isinstance(turn["content"], str):
        turn["content"] = turn["content"].rstrip()
    elif (last := turn["content"][-1])["type"] == "text":
        last["text"] = (yield from in_full(last["text"])).rstrip()


def _append_turn(turns: list[JsonObject], role: str, blocks: list[JsonObject]) -> None:
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _text_or_blocks(blocks: list[JsonObject]) -> str | list[JsonObject]:
    """Return a plain string if all blocks are text, else the blocks, tool results first as in each turn."""
    if all(block["type"] == "text" and isinstance(block["text"], str) for block in blocks):
        return "\n\n".join(block["text"] for block in blocks)
    return sorted(blocks, key=lambda block: block["type"] != "tool_result")


def _blocks(message: JsonObject, path: str, dropped: list[str], pace: StepSize) -> Steps[list[JsonObject]]:
    if message["role"] == "tool":
        result: JsonObject = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
        content = yield from _parts(message.get("content"), f"{path}.content", dropped, pace)
        return [result | ({"content": _text_or_blocks(content)} if content else {})]
    refusal = message.get("refusal")
    if not isinstance(refusal, str | Raw | None):
        raise Unsupported(f"{path}.refusal")
    blocks = yield from _parts(message.get("content"), f"{path}.content", dropped, pace)
    blocks += yield from _parts(refusal, path, dropped, pace)
    for index, call in enumerate(message.get("tool_calls") or ()):
        if pace.is_over():
            yield
        blocks.append((yield from _tool_use(call, f"{path}.tool_calls[{index}]")))
    return blocks


def _text(content: object, path: str, dropped: list[str], pace: StepSize) -> Steps[str | Raw]:
    blocks = yield from _parts(content, f"{path}.content", dropped, pace)
    if any(block["type"] != "text" for block in blocks):
        raise Unsupported(f"{path}.content")
    return joined([block["text"] for block in blocks])


def _parts(content: object, path: str, dropped: list[str], pace: StepSize) -> Steps[list[JsonObject]]:
    """Return the content blocks of a message, without empty text, which the endpoint rejects."""
    if not isinstance(content, list):
        has_words = isinstance(content, str | Raw) and not is_blank_text(content)
        return [{"type": "text", "text": content}] if has_words else []
    blocks: list[JsonObject] = []
    pieces: list[str] | None = None  # of the text block that is open; += of strings would be quadratic
    for index, part in enumerate(content):
        if pace.is_over():
            yield
        kind, here = part.get("type"), f"{path}[{index}]"
        known: tuple[str, ...] = ("type", str(kind))
        match kind:
            case "text" | "refusal":
                text = part.get(kind)
                if isinstance(text, Raw):
                    pieces = None
                    blocks += [] if is_blank_text(text) else [{"type": "text", "text": text}]
                elif not isinstance(text, str | None):
                    raise Unsupported(f"{here}.{kind}")
                elif pieces is not None:
                    pieces.append(text or "")
                elif text and text.strip():
                    pieces = [text]
                    blocks.append({"type": "text", "text": pieces})
            case "image_url":
                pieces = None
                blocks.append({"type": "image", "source": _image(part.get("image_url"), here, dropped)})
            case _:
                raise Unsupported(f"{here}.type")
        dropped += [f"messages.content.{name}" for name in part.keys() - set(known)]
    for block in blocks:
        if block["type"] == "text" and isinstance(block["text"], list):
            block["text"] = "".join(block["text"])
    return blocks


def _image(image: object, path: str, dropped: list[str]) -> JsonObject:
    url = image.get("url") if isinstance(image, dict) else image
    if isinstance(image, dict) and image.get("detail") not in (None, "auto"):
        dropped.append("messages.content.image_url.detail")
    if isinstance(url, str) and url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    if isinstance(url, Raw):
        return _large_image(url, path)
    found = DATA_URL.match(url) if isinstance(url, str) else None
    if found is None or (media := found[1].lower()) not in IMAGE_TYPES:
        raise Unsupported(f"{path}.image_url")
    return {"type": "base64", "media_type": media, "data": str(url)[found.end() :]}


def _large_image(url: Raw, path: str) -> JsonObject:
    """Return a large image without looking at its data."""
    data = memoryview(url)
    found = DATA_URL.match(bytes(data[1:80]).decode("latin-1").replace("\\/", "/"))
    if found is None or (media := found[1].lower()) not in IMAGE_TYPES:
        raise Unsupported(f"{path}.image_url")
    start = bytes(data[:80]).index(b",") + 1
    return {"type": "base64", "media_type": media, "data": Raw(b"".join((b'"', data[start:])))}


def _tool_use(call: JsonObject, path: str) -> Steps[JsonObject]:
    function = call.get("function")
    if not isinstance(function, dict):
        raise Unsupported(f"{path}.type")
    given = function.get("arguments")
    try:
        if isinstance(given, Raw):  # a large one goes out as it came
            arguments = Raw((yield from in_full(given)).encode())
            _OBJECT.decode(arguments)
            yield
        else:
            arguments = msgspec.json.decode(str(given or "{}"))
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        arguments = None
    if not isinstance(arguments, dict | Raw):
        raise Unsupported(f"{path}.function.arguments")
    return {"type": "tool_use", "id": call["id"], "name": function.get("name"), "input": arguments}


def _sampling(given: JsonObject, api_version: str, dropped: list[str]) -> JsonObject:
    names = [name for name in SAMPLING if name in given]
    if api_version != OLD_VERSION:
        dropped += names
        return {}
    if "temperature" in names and "top_p" in names:  # newer models accept only one of the two
        names.remove("top_p")
        dropped.append("top_p")
    return {name: min(given[name], 1.0) if name == "temperature" else given[name] for name in names}


def _tools(given: JsonObject, dropped: list[str]) -> JsonObject:
    tools, one_at_a_time = given.get("tools"), "parallel_tool_calls" in given
    if not tools:
        if given.get("tool_choice") not in (None, "auto", "none"):
            raise Unsupported("tool_choice")
        dropped += ["parallel_tool_calls"] if one_at_a_time else []
        return _tools_of_history(given["messages"])
    body: JsonObject = {"tools": [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]}
    choice = _choice(given.get("tool_choice"))
    if one_at_a_time and choice != {"type": "none"}:
        choice = (choice or {"type": "auto"}) | {"disable_parallel_tool_use": True}
    return body | ({"tool_choice": choice} if choice else {})


def _tools_of_history(messages: list[JsonObject]) -> JsonObject:
    """Return the tools that were called before: the endpoint wants them declared. None may be called."""
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    names = dict.fromkeys(str(call["function"].get("name")) for call in calls)
    tools = [{"name": name, "input_schema": {"type": "object", "properties": {}}} for name in names]
    return {"tools": tools, "tool_choice": {"type": "none"}} if tools else {}


def _tool(tool: JsonObject, path: str) -> JsonObject:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        raise Unsupported(f"{path}.type")
    translated: JsonObject = {"name": function.get("name")}
    translated["input_schema"] = _parameters(function.get("parameters"), f"{path}.function.parameters")
    if function.get("description"):
        translated["description"] = function["description"]
    if function.get("strict"):
        translated["strict"] = True
    return translated


def _parameters(schema: object, path: str) -> JsonObject:
    """Return a tool's schema as the endpoint requires it: an object, without alternatives at its top."""
    if not schema:
        return {"type": "object", "properties": {}}
    if (
        not isinstance(schema, dict)
        or schema.get("type", "object") != "object"
        or schema.keys() & ALTERNATIVES
    ):
        raise Unsupported(path)
    return {"type": "object", **schema}


def _choice(choice: object) -> JsonObject | None:
    if choice is None:
        return None
    if isinstance(choice, str) and choice in TOOL_CHOICES:
        return {"type": TOOL_CHOICES[choice]}
    if isinstance(choice, dict) and isinstance(function := choice.get("function"), dict):
        return {"type": "tool", "name": function.get("name")}
    raise Unsupported("tool_choice")


def _format(response_format: object) -> Steps[JsonObject]:
    if response_format is None:
        return {}
    json_schema = response_format.get("json_schema") if isinstance(response_format, dict) else None
    schema = json_schema.get("schema") if isinstance(json_schema, dict) else None
    if not isinstance(schema, dict):  # json_object: the endpoint has no mode for JSON without a schema
        raise Unsupported("response_format")
    closed = yield from _close_schema(schema, StepSize())
    return {"output_config": {"format": {"type": "json_schema", "schema": closed}}}


def _close_schema(schema: Any, pace: StepSize) -> Steps[Any]:
    """Close all objects of the schema, as the endpoint requires. Raises Unsupported for an open object."""
    if not isinstance(schema, dict | list):
        return schema
    if pace.is_over():
        yield
    if isinstance(schema, list):
        items = []
        for item in schema:
            if pace.is_over():
                yield
            items.append((yield from _close_schema(item, pace)) if isinstance(item, dict | list) else item)
        return (yield from encode_list(items)) if len(items) > MANY else items
    closed: JsonObject = {}
    for name, value in schema.items():
        closed[name] = yield from _close_schema(value, pace)
    if closed.get("type") == "object" and isinstance(closed.get("properties", {}), dict):
        if closed.get("additionalProperties", False) is not False:
            raise Unsupported("response_format")
        closed["additionalProperties"] = False
    return closed


def _user(given: JsonObject, dropped: list[str]) -> JsonObject:
    names = [name for name in ("safety_identifier", "user") if name in given]
    fits = [name for name in names if isinstance(given[name], str) and len(given[name]) <= USER_CHARS_MAX]
    dropped += [name for name in names if name not in fits[:1]]
    return {"metadata": {"user_id": given[fits[0]]}} if fits else {}
