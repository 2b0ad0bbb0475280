"""A reader of server-sent events, as a client reads them.

Independent of the service's own reader on purpose: each must be able to catch the other's mistakes.
"""

import codecs


class EventReader:
    """Turns bytes into the data of complete events. Lines end with \\n, \\r\\n or \\r, whichever way bytes
    are split."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[str]:
        """Return the events that `data` completes."""
        text = self._rest + self._decode(data)
        held = ""
        if "\r" in text:
            held = "\r" if text.endswith("\r") else ""  # its \n may come with the next bytes
            text = text[: len(text) - len(held)].replace("\r\n", "\n").replace("\r", "\n")
        *lines, tail = text.split("\n")
        self._rest = tail + held
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: str) -> str | None:
        if not line:
            data, self._data = self._data, []
            return "\n".join(data) if data else None
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        return None
