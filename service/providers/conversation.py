"""Conversations as strict providers want them, whoever wrote the history: calls paired with their results.

pair_calls      results just after their calls, with new ids; Unsupported where one has not the other
is_blank        whether a message says nothing
only_openais    messages without what only some providers know: `reasoning_content`, thought signatures
BEGIN, GO_ON    what stands where a provider wants a turn that the conversation does not have
"""

import hashlib
import re
from collections import Counter, deque
from collections.abc import Sequence

from msgspec import Raw

from dub5.service.providers.base import Unsupported
from dub5.service.providers.fields import JsonObject, decode_in_steps
from dub5.service.providers.slices import ITEM_BYTES, Steps, StepSize, encode_list, is_blank_text

MESSAGE_FIELDS = frozenset(
    ("role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio", "function_call")
)
CALL_FIELDS = frozenset({"id", "type", "function", "custom"})
BEGIN = "Begin."  # a user's turn, before a conversation that the assistant opens
GO_ON = "Understood."  # an assistant's turn, between a tool's result and the user's next one


def pair_calls(
    messages: Sequence[JsonObject], pattern: re.Pattern[str], prefix: str, chars: int
) -> Steps[list[JsonObject]]:
    """Return the messages with each result just after its call, and with an id of its own for each call.

    An id that does not fit `pattern`, or is used twice, is replaced by `prefix` and `chars` of its hash.
    Raises Unsupported for a call without a result before the next turn of the assistant, or the other way
    round.
    """
    paired: list[JsonObject] = []
    after: list[JsonObject] = []  # what stood between a call and its results
    ids = _CallIds(pattern, prefix, chars)
    waiting: dict[str, deque[str]] = {}  # new ids by the id in the history, which may be there twice
    where, pace = "", StepSize()
    for index, message in enumerate(messages):
        if pace.is_over():
            yield
        if message["role"] == "tool":
            given = str(message.get("tool_call_id"))
            if (new := waiting.get(given)) is None:
                raise Unsupported(f"messages[{index}].tool_call_id")
            message["tool_call_id"] = new.popleft()
            if not new:
                del waiting[given]
            paired.append(message)
            continue
        if message["role"] != "assistant":
            (after if waiting else paired).append(message)
            continue
        if waiting:
            raise Unsupported(where)
        paired += after
        paired.append(message)
        after, where = [], f"messages[{index}].tool_calls"
        for call in message.get("tool_calls") or ():
            if pace.is_over():
                yield
            given = str(call.get("id"))
            call["id"] = ids.unused(given)
            waiting.setdefault(given, deque()).append(call["id"])
    if waiting:
        raise Unsupported(where)
    return paired + after


class _CallIds:
    """The ids of the calls of one history."""

    def __init__(self, pattern: re.Pattern[str], prefix: str, chars: int) -> None:
        self._pattern, self._prefix, self._chars = pattern, prefix, chars
        self._used: set[str] = set()
        self._seen: Counter[str] = Counter()  # or the ids before would be tried again, each time

    def unused(self, given: str) -> str:
        """Return the given id, or another one for it, that no call has yet."""
        new = given
        while new in self._used or not self._pattern.fullmatch(new):
            text = f"{given}#{number}" if (number := self._seen[given]) else given
            new = self._prefix + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[: self._chars]
            self._seen[given] += 1
        self._used.add(new)
        return new


def is_blank(content: object) -> bool:
    """Return whether a content has no text but spaces, and nothing else."""
    if isinstance(content, list):
        return all(part.get("type") in ("text", "refusal") and _says_nothing(part) for part in content)
    return _is_no_text(content)


def _says_nothing(part: JsonObject) -> bool:
    return _is_no_text(part.get("text") or part.get("refusal"))


def _is_no_text(value: object) -> bool:
    return not value or (isinstance(value, str | Raw) and is_blank_text(value))


def only_openais(raw: Raw) -> Steps[tuple[Raw, list[str]] | None]:
    """Return messages with the fields of OpenAI's format alone, and a text for each; and what was left out.

    None: they are so.
    """
    messages: list[JsonObject] = yield from decode_in_steps("messages", raw)
    changed, pace = False, StepSize()
    dropped: dict[str, None] = {}
    for message in messages:
        if pace.is_over(ITEM_BYTES * len(message.get("tool_calls") or ())):
            yield
        if message.get("role") != "assistant":
            continue
        calls = message.get("tool_calls") or ()
        if message.get("content") is None and not calls and not message.get("function_call"):
            message["content"], changed = message.get("refusal") or "", True
        for part, path, known in (
            (message, "messages.", MESSAGE_FIELDS),
            *((call, "messages.tool_calls.", CALL_FIELDS) for call in calls),
        ):
            for name in part.keys() - known:
                del part[name]
                dropped[path + name] = None
    return ((yield from encode_list(messages)), list(dropped)) if changed or dropped else None
