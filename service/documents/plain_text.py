"""Text of files: decoded from bytes, and cleaned as admission/sanitize.py cleans what people type."""

import re
import unicodedata

from dub5.service.documents.kinds import BOMS
from dub5.service.documents.refusals import ReadRefused

CONTROLS_MAX, CONTROL_SHARE_MAX = 3, 0.02
MARKS_MAX = 30  # on one letter
_UTF32 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_SPACES = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_MARKS = re.compile(rf"(?<![^\w\x00-\x7f])([^\w\x00-\x7f]{{{MARKS_MAX}}})[^\w\x00-\x7f]+")
_BLANK_LINES = re.compile("\n{3,}")


def decode(data: bytes) -> str:
    """Return the text of bytes. Raises ReadRefused for what is none."""
    try:
        text = _decoded(data)
    except UnicodeDecodeError:
        raise ReadRefused("damaged_text" if data.startswith(BOMS) else "binary") from None
    controls = len(_CONTROL.findall(text[: 64 * 1024]))
    if controls > max(CONTROLS_MAX, CONTROL_SHARE_MAX * min(len(text), 64 * 1024)):
        raise ReadRefused("binary")
    return text


def _decoded(data: bytes) -> str:
    """Return the text. Raises UnicodeDecodeError."""
    if data.startswith(_UTF32):
        return data.decode("utf-32")
    if data.startswith(BOMS[1:]):
        return data[: len(data) // 2 * 2].decode("utf-16")
    data = data.removeprefix(BOMS[0])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        # A few bytes that are wrong, among letters that are right, are damage and no other encoding.
        text = data.decode("utf-8", "replace")
        wrong = text.count("\ufffd")
        right = sum(1 for char in text[: 64 * 1024] if char > "\x7f" and char != "\ufffd")
        return text if right >= 2 * wrong else data.decode("cp1252")


def clean_page(text: str) -> str:
    """Return the text of a page without controls and blanks at line ends, in form NFC."""
    text = _CONTROL.sub("", _LINE_ENDS.sub("\n", text))
    if not text.isascii():
        text = _SURROGATES.sub("\ufffd", text)
        text = unicodedata.normalize("NFC", _MARKS.sub(r"\1", text))
        text = _SPACES.sub(" ", text)
    lines = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    return _BLANK_LINES.sub("\n\n", lines).strip("\n")
