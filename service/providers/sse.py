"""A decoder for server-sent events, without I/O (WHATWG HTML, section 9.2). Call `SseDecoder.feed(data)`.

bytes, split anywhere --feed--> [(event name, data)], ...

Some servers frame badly. A line with an object and without `data:`, or with the field in another form, is an
event; `split_objects` takes apart several objects that one event holds. No word of an answer gets lost so.
"""

import json
import re

BOM = b"\xef\xbb\xbf"


class EventTooLong(Exception):
    """An event is larger than the limit."""


class SseDecoder:
    """An incremental decoder: bytes in, complete events out. An event cut off by the end is dropped."""

    __slots__ = (
        "_after_cr",
        "_data",
        "_event_bytes_max",
        "_name",
        "_size",
        "_started",
        "_waiting",
        "_waiting_bytes",
        "between_events",
    )

    def __init__(self, event_bytes_max: int) -> None:
        self._event_bytes_max = event_bytes_max
        self._waiting: list[bytes] = []  # the beginning of a line
        self._waiting_bytes = 0
        self._started = False
        self._after_cr = False  # a line feed at the start of the next bytes belongs to the line before
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0
        self.between_events = False  # the next bytes begin an event, or a line between two

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Return the events that `data` completes, as (name, data). Raises EventTooLong."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if self.between_events and data[-2:] == b"\n\n":
            whole = _whole_events(data)
            if whole is not None and len(data) <= self._event_bytes_max:
                return whole
        self.between_events = False
        if b"\n" not in data and b"\r" not in data and self._started:
            # No line ends here. Joining each time would be quadratic in the length of an event.
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            if self._waiting_bytes + self._size > self._event_bytes_max:
                raise EventTooLong
            return []
        buffer = b"".join((*self._waiting, data))
        self._waiting, self._waiting_bytes = [], 0
        if not self._started:
            if len(buffer) < len(BOM) and BOM.startswith(buffer):
                self._waiting = [buffer]
                return []
            buffer = buffer.removeprefix(BOM)
            self._started = True
        self._after_cr = buffer.endswith(b"\r")
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = buffer.split(b"\n")
        rest = lines.pop()
        self._waiting, self._waiting_bytes = [rest], len(rest)
        if len(rest) + self._size > self._event_bytes_max:
            raise EventTooLong
        events: list[tuple[bytes, bytes]] = []
        for line in lines:
            self._line(line, events)
        self.between_events = not (rest or self._data or self._name or self._after_cr)
        return events

    def rest(self) -> bytes:
        """Return the line that has begun and has no end."""
        return b"".join(self._waiting)

    def _line(self, line: bytes, events: list[tuple[bytes, bytes]]) -> None:
        if not line:
            if self._data:
                events.append((self._name, b"\n".join(self._data) if len(self._data) > 1 else self._data[0]))
            self._name, self._data, self._size = b"", [], 0
            return
        field, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            self._size += len(line)  # a line without text takes memory, too
            if self._size > self._event_bytes_max:
                raise EventTooLong
            self._data.append(value)
        elif field == b"event":
            self._name = value
        elif field not in OTHER_FIELDS and (found := _OBJECT.search(line)):
            self._odd_line(line, line[found.start() :].rstrip(), events)

    def _odd_line(self, line: bytes, value: bytes, events: list[tuple[bytes, bytes]]) -> None:
        """Read what a line holds outside of any field: an object, `[DONE]`, or nothing of an answer."""
        may_answer = line.startswith(b'{"') or any(name in value for name in ANSWER_NAMES)
        if not (may_answer or split_objects(value)):
            return
        if self._data:
            self._line(b"data:" + value, events)
        elif len(value) > self._event_bytes_max:
            raise EventTooLong
        else:
            events.append((self._name, value))


OTHER_FIELDS = frozenset({b"", b"id", b"retry"})  # a line that begins with a colon is a comment
# Broken off, an object with these names, or one that begins its line, is a fault, not to be skipped.
ANSWER_NAMES = (b'"choices"', b'"delta"')
_OBJECT = re.compile(rb"\{|\[DONE\]")
_BETWEEN = re.compile(r"(?:\s|data\s*:)*")
_JSON = json.JSONDecoder()


def split_objects(payload: bytes) -> list[bytes]:
    """Return the objects that a payload holds one after the other, `[DONE]` too; none if it holds others."""
    parts: list[bytes] = []
    try:
        text = payload.decode()
        at = _end(text, 0)
        while at < len(text):
            start = at
            at = at + len("[DONE]") if text.startswith("[DONE]", at) else _JSON.raw_decode(text, at)[1]
            parts.append(text[start:at].encode())
            at = _end(text, at)
    except (ValueError, RecursionError):
        return []
    return parts


def _end(text: str, at: int) -> int:
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


def is_json_lines(beginning: bytes) -> bool:
    """Return whether a stream's first line holds a whole chunk, though no event."""
    line, ended, _ = beginning.partition(b"\n")
    return bool(ended) and b'"delta"' in line and bool(split_objects(line))


def _whole_events(data: bytes) -> list[tuple[bytes, bytes]] | None:
    """Return complete events of one data line each, after their name if they have one; None for others.

    Most providers send such events most of the time; this path costs a third of the general one.
    """
    if b"\r" in data:
        return None
    events = []
    for block in data[:-2].split(b"\n\n"):
        name = b""
        if block[:7] == b"event: ":
            name, _, block = block[7:].partition(b"\n")  # noqa: PLW2901
        if block[:6] != b"data: " or b"\n" in block:
            return None
        events.append((name, block[6:]))
    return events
