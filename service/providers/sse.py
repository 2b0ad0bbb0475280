"""Server-sent events, without I/O (WHATWG HTML, section 9.2).

bytes, split anywhere --feed--> [(event name, data)], ...
"""

BOM = b"\xef\xbb\xbf"


class EventTooLong(Exception):
    """One event is over the limit."""


class SseDecoder:
    """Takes bytes as they come and gives whole events. An event that the stream's end cuts off is never given."""

    __slots__ = ("_data", "_event_bytes_max", "_name", "_size", "_started", "_waiting", "_waiting_bytes")

    def __init__(self, event_bytes_max: int) -> None:
        self._event_bytes_max = event_bytes_max
        self._waiting: list[bytes] = []  # the beginning of a line
        self._waiting_bytes = 0
        self._started = False
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The events that `data` completes. Raises EventTooLong."""
        if b"\n" not in data and b"\r" not in data and self._started:
            # No line ends here. Joining each time would cost the square of a long event's length.
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
        lines, rest = _lines(buffer)
        self._waiting, self._waiting_bytes = [rest], len(rest)
        if len(rest) + self._size > self._event_bytes_max:
            raise EventTooLong
        events: list[tuple[bytes, bytes]] = []
        for line in lines:
            self._line(line, events)
        return events

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
            self._size += len(value)
            if self._size > self._event_bytes_max:
                raise EventTooLong
            self._data.append(value)
        elif field == b"event":
            self._name = value


def _lines(buffer: bytes) -> tuple[list[bytes], bytes]:
    """Whole lines, and what is left over. Lines end with LF, CRLF or a lone CR."""
    if b"\r" in buffer:
        # A CR at the very end may be half of a CRLF: it waits for the next bytes.
        held = b"\r" if buffer.endswith(b"\r") else b""
        buffer = buffer[: len(buffer) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
    lines = buffer.split(b"\n")
    return lines, lines.pop()
