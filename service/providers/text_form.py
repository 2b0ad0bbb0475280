"""TextForm: an event that differs only in its text from one that was decoded need not be decoded itself.

    learn   a decoded event -> the bytes before and after its text
    text    an event        -> its text, where all else is what it was then

Nearly all events of a stream are of one form. All that says how an answer goes on is outside of its text,
and so is as it was. The text itself is decoded, so an event that is no JSON is found.
"""

import re
from collections.abc import Callable

import msgspec
from msgspec import Struct

FORMS_MAX = 4  # that are learned of a stream: in one whose events are all different it would be in vain
_VALUE = rb'"%s" ?: ?("[^"\\]*(?:\\.[^"\\]*)*")'
_PADDING = re.compile(rb',"(?:obfuscation|p)":"[A-Za-z0-9]*"')
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_TEXT = msgspec.json.Decoder(str)


class TextForm(Struct, frozen=True, gc=False):
    """The bytes of an event around its text, with the quotes of it. `is_padded`: `tail` is without padding.

    `start` and `end` are where that text begins and ends as JSON, which has its quotes, too.
    """

    head: bytes
    tail: bytes
    start: int
    end: int
    event_bytes_max: int
    is_padded: bool

    def text(self, event: bytes) -> str:
        """Return the text of an event of this form; none if it is anything else."""
        if self.is_padded:
            event = _without_padding(event)
        if event.startswith(self.head) and event.endswith(self.tail) and len(event) <= self.event_bytes_max:
            try:
                return _TEXT.decode(event[self.start : self.end])
            except UNREADABLE:
                pass
        return ""

    def several(self, data: bytes) -> list[tuple[bytes, str]]:
        """Return several events, each with its text; none unless all are of this form."""
        if not data.startswith(self.head) or data[-2:] != b"\n\n" or data.find(b"\n\n") == len(data) - 2:
            return []
        events = [event + b"\n\n" for event in data[:-2].split(b"\n\n")]
        texts = [self.text(event) for event in events]
        return list(zip(events, texts, strict=True)) if all(texts) else []


def learn(
    before: bytes, payload: bytes, field: str, event_bytes_max: int, text_of: Callable[[bytes], object]
) -> TextForm | None:
    """Return the form of an event with a text in `field`, or None where that is not certain.

    `before`: what stands in the event before its payload. `text_of` reads that field of a payload. It is
    certain if it reads an empty text once there is one in this place.
    """
    bare = _without_padding(event := before + payload + b"\n\n")
    found = re.compile(_VALUE % field.encode()).search(bare, len(before))
    if found is None or b"\n" in payload or b"\r" in payload:
        return None
    head, tail = bare[: found.start(1) + 1], bare[found.end(1) - 1 :]
    try:
        if text_of(head[len(before) :] + tail) != "":
            return None
    except UNREADABLE:
        return None
    return TextForm(head, tail, len(head) - 1, 1 - len(tail), event_bytes_max, bare != event)


def _without_padding(event: bytes) -> bytes:
    """Return an event without what may come last to hide the length of a text: a field, or blanks."""
    if event[-3:] != b"}\n\n":
        return event
    bare = event[:-3].rstrip(b" ")
    last = bare.rfind(b',"')
    if _PADDING.fullmatch(bare, last):  # from there: a search takes a hundred times as long
        bare = bare[:last]
    return bare + b"}\n\n"
