"""The oracle of the fuzz run: reads upstream bytes a second time, without any code of the service.

Deliberately slow and plain: the whole body at once, the standard library's JSON.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

Texts = dict[int, str]  # by choice
WHOLE = {"stop", "length", "tool_calls", "function_call", "content_filter", "model_length", "pause_turn"}
WHOLE |= {"end_turn", "stop_sequence", "max_tokens", "tool_use", "refusal", "model_context_window_exceeded"}
BOM = b"\xef\xbb\xbf"
TRANSLATED = "replace"  # bad bytes in what is not passed on do no harm


@dataclass
class ReadAnswer:
    """The meaning of an answer.

    `whole`: its texts at the first moment at which the answer was whole, None if never.
    """

    texts: Texts = field(default_factory=dict)
    whole: Texts | None = None
    calls: str = ""  # arguments of the tools that are called
    open: bool = False  # a choice has begun that has not ended
    done: int = 0  # how many times the end was said
    error: Any = None
    odd: str = ""  # the first invalid event


def events(body: bytes) -> list[tuple[str, bytes]]:
    """Yield name and data of each server-sent event; an event that no empty line closes does not count."""
    lines = re.split(rb"\r\n|\r|\n", body.removeprefix(b"\xef\xbb\xbf"))[:-1]
    found: list[tuple[str, bytes]] = []
    name = ""
    data: list[bytes] = []
    for line in lines:
        key, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if data:
                found.append((name, b"\n".join(data)))
            name, data = "", []
        elif key == b"data":
            data.append(value)
        elif key == b"event":
            name = value.decode("latin-1")
        elif key not in (b"", b"id", b"retry") and (odd := outside(line)):
            if data:
                data.append(odd)
            else:
                found.append((name, odd))
    return [(name, one) for name, payload in found for one in objects(payload)]


def outside(line: bytes) -> bytes:
    """Return what a line holds outside of any field: an object, the end, or a part of an answer."""
    start = re.search(rb"\{|\[DONE\]", line)
    odd = line[start.start() :].rstrip() if start else b""
    readable = odd.startswith(b"[DONE]") or objects(odd) != [odd] or _parses(odd)
    part = line.startswith(b'{"') or b'"choices"' in odd or b'"delta"' in odd
    return odd if readable or part else b""


def objects(payload: bytes) -> list[bytes]:
    """Return the objects that stand in a payload one after the other; else the payload."""
    left = re.sub(rb"\A(\s|data\s*:)+", b"", payload)
    parts: list[bytes] = []
    while left:
        if left.startswith(b"[DONE]"):
            end = len(b"[DONE]")
        else:
            try:
                end = len(left.decode()[: json.JSONDecoder().raw_decode(left.decode())[1]].encode())
            except (ValueError, RecursionError):
                return [payload]
        parts.append(left[:end])
        left = re.sub(rb"\A(\s|data\s*:)+", b"", left[end:])
    return parts if len(parts) > 1 or (parts and payload[:1] != b"{") else [payload]


def _parses(data: bytes) -> bool:
    try:
        return isinstance(parsed(data), dict)
    except ValueError:
        return False


def parsed(data: bytes, errors: str = "strict") -> Any:
    """Parse JSON by the standard. Raises ValueError."""
    try:
        return json.loads(data.decode("utf-8", errors), parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def said(content: Any) -> str:
    """Return the text of a content field, whether a string or parts."""
    if isinstance(content, str):
        return content
    pieces = content if isinstance(content, list) else []
    return "".join(
        p["text"]
        for p in pieces
        if isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str)
    )


def arguments(delta: Any) -> str:
    """Return the arguments of the calls in a message, or in a piece of one."""
    calls = dicts(delta.get("tool_calls")) if isinstance(delta, dict) else []
    said = [call["function"].get("arguments") for call in calls if isinstance(call.get("function"), dict)]
    return "".join(one for one in said if isinstance(one, str))


def reason(value: Any) -> bool:
    """Return whether this is the reason of a proper end."""
    return isinstance(value, str) and value in WHOLE


def openai_stream(body: bytes) -> ReadAnswer:
    """Read a stream of chat.completion.chunk objects: whole when every choice that was seen has a finish
    reason that no content followed."""
    told, ended = ReadAnswer(), set[int]()
    for _, data in events(body):
        if data.startswith(b"[DONE]"):
            told.done += 1
            continue
        try:
            chunk = parsed(data)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            told.odd = told.odd or repr(data[:200])
            continue
        if chunk.get("error") is not None:
            told.error = chunk["error"]
        for choice in dicts(chunk.get("choices")):
            index, delta = choice.get("index") or 0, choice.get("delta")
            if not isinstance(index, int):
                continue
            text = said(delta.get("content")) if isinstance(delta, dict) else ""
            told.texts[index] = told.texts.get(index, "") + text
            told.calls += arguments(delta)
            if text:
                ended.discard(index)
            if reason(choice.get("finish_reason")):
                ended.add(index)
        told.open = ended != told.texts.keys()
        if told.whole is None and ended and not told.open:
            told.whole = dict(told.texts)
    return told


def anthropic_stream(body: bytes) -> ReadAnswer:
    """Read a stream of Messages events: whole at message_stop, if a stop reason came before it."""
    told, stopped = ReadAnswer(texts={0: ""}), False
    for _, data in events(body):
        try:
            event = parsed(data, TRANSLATED)
        except ValueError:
            continue
        if not isinstance(event, dict):
            continue
        delta = event.get("delta")
        match event.get("type"):
            case "content_block_start" | "content_block_delta":
                part = event.get("content_block") if event["type"].endswith("start") else delta
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    told.texts[0] += part["text"]
                    stopped = stopped and not part["text"]
                if isinstance(part, dict) and isinstance(part.get("partial_json"), str):
                    told.calls += part["partial_json"]
            case "message_delta":
                stopped = stopped or (isinstance(delta, dict) and reason(delta.get("stop_reason")))
            case "message_stop" if stopped and told.whole is None:
                told.whole = dict(told.texts)
    return told


def openai_json(body: bytes) -> ReadAnswer:
    """Read a chat.completion: whole if every choice has a finish reason."""
    try:
        answer = parsed(body)
    except ValueError as error:
        return ReadAnswer(odd=f"{error}: {body[:200]!r}")
    if not isinstance(answer, dict):
        return ReadAnswer(odd=repr(body[:200]))
    told = ReadAnswer(error=answer.get("error"))
    choices = dicts(answer.get("choices"))
    for choice in choices:
        message = choice.get("message")
        index = choice.get("index", 0)
        text = said(message.get("content")) if isinstance(message, dict) else ""
        told.calls += arguments(message)
        told.texts[index if isinstance(index, int) else -1] = text
    if choices and told.error is None and all(reason(choice.get("finish_reason")) for choice in choices):
        told.whole = dict(told.texts)
    return told


def anthropic_json(body: bytes) -> ReadAnswer:
    """Read a message: whole if it says why it stopped."""
    try:
        message = parsed(body, TRANSLATED)
    except ValueError as error:
        return ReadAnswer(odd=str(error))
    if not isinstance(message, dict):
        return ReadAnswer(odd="no object")
    told = ReadAnswer({0: said(message.get("content"))})
    told.calls = "".join(
        json.dumps(part["input"]) for part in dicts(message.get("content")) if part.get("input")
    )
    if reason(message.get("stop_reason")) and message.get("type") != "error":
        told.whole = dict(told.texts)
    return told


def upstream(persona: str, stream: bool, body: bytes) -> ReadAnswer:
    """Read a provider's body, in its dialect."""
    body = body if stream else body.removeprefix(BOM)
    if persona == "anthropic":
        return anthropic_stream(body) if stream else anthropic_json(body)
    return openai_stream(body) if stream else openai_json(body)


def begins(text: Texts, whole: Texts) -> bool:
    """Return whether each text is the beginning of its expected text."""
    return all(whole.get(index, "").startswith(part) for index, part in text.items())


def dicts(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
