"""CallIndexes: gives a tool call in a stream the `index` by which clients join its pieces.

Providers that send each call as a whole often leave it out.
"""

from typing import Any

import msgspec


class CallIndexes:
    """The tool calls of one stream, by choice."""

    def __init__(self) -> None:
        self._ids: dict[object, dict[str, int]] = {}
        self._last: dict[object, int] = {}

    def complete(self, payload: bytes) -> bytes:
        """Return the chunk with an index in each of its tool calls; unchanged if none lacks it."""
        try:
            chunk, changed = msgspec.json.decode(payload), False
            for choice in chunk["choices"]:
                for call in (choice.get("delta") or {}).get("tool_calls") or ():
                    changed = self._complete(choice.get("index") or 0, call) or changed
            return msgspec.json.encode(chunk) if changed else payload
        except (msgspec.DecodeError, UnicodeError, LookupError, TypeError, AttributeError):
            return payload  # an unknown shape passes as it came

    def _complete(self, choice: object, call: dict[str, Any]) -> bool:
        """Record a call, or the next piece of one. Return whether it lacked its index."""
        ids, name, given = self._ids.setdefault(choice, {}), call.get("id"), call.get("index")
        index = given if type(given) is int else self._index(choice, call)
        call["index"] = self._last[choice] = index
        if isinstance(name, str) and name:
            ids.setdefault(name, index)
        return type(given) is not int

    def _index(self, choice: object, call: dict[str, Any]) -> int:
        """Return a new call's next index, or the index of the call that this piece belongs to."""
        ids, last, name = self._ids[choice], self._last.get(choice, -1), call.get("id")
        if isinstance(name, str) and name in ids:
            return ids[name]
        is_new = name or (call.get("function") or {}).get("name")
        return max(last, *ids.values(), -1) + 1 if is_new or last < 0 else last
