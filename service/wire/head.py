"""The head of a response, by one rule on every wire: what is refused, and what is put right.

    more than HEAD_BYTES_MAX bytes, or HEADERS_MAX headers     refused
    a transfer coding other than `chunked`, or several         refused: nothing compressed was asked for
    lengths that differ, or one beside `chunked`               refused: two readers would see two answers
    equal lengths                                              one
    folded lines, and Latin-1                                  unfolded, and UTF-8
    what is not HTTP/1.x: control characters, odd names        refused

`read_head` works on bytes: `ordinary_head` where nothing is to be put right, which is nearly always, else
`plain_head`. `check_headers` works on what a parser made of them that reads heads by this rule, apart from
its first and third line.
"""

import re
from collections.abc import Sequence

HEAD_BYTES_MAX = 64 * 1024  # names, values, and two bytes for each header
HEADERS_MAX = 1000
BEGIN = b"HTTP/1."
UNFINISHED_BYTES_MAX = 100 * 1024  # with padding, and before the end has come
END_OF_HEAD = re.compile(rb"\n\r?\n")
TEXT = rb"[^\x00-\x08\x0a-\x1f\x7f]*+"
WELL_FORMED = re.compile(
    rb"HTTP/1\.[01] [1-9][0-9]{2}(?: %b)?\r?\n(?>[-!#$%%&'*+.^_`|~0-9a-zA-Z]++:%b\r?\n)*+\r?\n" % (TEXT, TEXT)
)
FOLD = re.compile(rb"(?<!\n)\r?\n[ \t]+")
FRAMING = re.compile(rb"\n(content-length|transfer-encoding):([^\r\n]*)", re.IGNORECASE)
LENGTH_LINE = re.compile(rb"(?<=\n)content-length:[^\n]*\n", re.IGNORECASE)
LENGTH_DIGITS_MAX = 18
LENGTH = re.compile(rb"[0-9]{1,%d}" % LENGTH_DIGITS_MAX)
STATUS_LINE = re.compile(r"HTTP/1\.1 [2-9][0-9]{2}(?: |$)")
CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

HEADER = re.compile(r"\n([^:\r\n]+):([^\r\n]*)")
PRINTABLE = bytes(range(0x20, 0x7F))
NAMES_MAX = 1000
NAME_CHARS_MAX = 64

Pairs = Sequence[tuple[bytes, bytes]]
StatusAndHeaders = tuple[int, dict[str, str]]  # the headers by lower-case name; of repeated ones the last

_NAMES: dict[str, str] = {}  # of headers that came before in a head that was taken, and them in lower case


class BadHead(Exception):
    """A head that every wire refuses."""


def head_end(data: bytes | bytearray, start: int = 0) -> int:
    """Return where the head ends, after `start`; 0 where its end has not come. Raises BadHead."""
    if not data.startswith(BEGIN[: len(data)]):
        raise BadHead("the head is not HTTP/1.1")
    found = END_OF_HEAD.search(data, max(0, start - 2))
    if (found.end() if found else len(data)) > UNFINISHED_BYTES_MAX:
        raise BadHead("the head is too large")
    return found.end() if found else 0


def read_head(head: bytes) -> StatusAndHeaders:
    """Return status and headers of a whole head. Raises BadHead."""
    text = plain_head(head).decode("utf-8", "surrogateescape")
    pairs = HEADER.findall(text)
    for name, _ in pairs:
        if len(_NAMES) < NAMES_MAX and len(name) <= NAME_CHARS_MAX:
            _NAMES.setdefault(name, name.lower())
    return int(text[9:12]), {name.lower(): value.strip(" \t") for name, value in pairs}


def ordinary_head(head: bytes) -> StatusAndHeaders | None:
    """Return what `read_head` would, at a third of its cost; None for a head that is not ordinary.

    Ordinary are ASCII on CRLF lines, names that have come before, each once, and one plain framing.
    """
    lines = head.decode("latin-1").split("\r\n")
    count = len(lines) - 3  # of headers
    if head.translate(None, PRINTABLE) != b"\r\n" * (count + 2) or len(head) > HEAD_BYTES_MAX:
        return None
    headers = {}
    try:
        for line in lines[1:-2]:
            name, value = line.split(":", 1)
            headers[_NAMES[name]] = value.strip(" ")
    except (KeyError, ValueError):
        return None
    if len(headers) != count or count > HEADERS_MAX or not STATUS_LINE.match(lines[0]):
        return None
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is None:
        is_plain = length is None or (length.isdecimal() and len(length) <= LENGTH_DIGITS_MAX)
    else:
        is_plain = length is None and coding == "chunked"
    return (int(lines[0][9:12]), headers) if is_plain else None


def plain_head(head: bytes) -> bytes:
    """Return a whole head in UTF-8, on unfolded lines, and with at most one length. Raises BadHead."""
    if b"\n " in head or b"\n\t" in head:
        head = _unfolded(head)
    if not WELL_FORMED.fullmatch(head):
        raise BadHead("the head is not HTTP/1.1")
    if len(head) > HEAD_BYTES_MAX or head.count(b"\n") > HEADERS_MAX:
        lines = [line.partition(b":") for line in head.split(b"\n")[1:-2]]
        check_headers([(name, value.strip()) for name, _, value in lines])
    if not head.isascii():
        head = _in_utf_8(head)
    framing = FRAMING.findall(head)
    if not framing or (len(framing) == 1 and LENGTH.fullmatch(framing[0][1].strip(b" \t"))):
        return head
    return _framed_once(head, framing)


def is_interim(head: bytes) -> bool:
    """Return whether another head follows this one: 100 Continue, 103 Early Hints."""
    return head[9:10] == b"1" and head[9:12] != b"101"


def check_headers(headers: Pairs, reason: bytes = b"", version: bytes = b"HTTP/1.1") -> None:
    """Raise BadHead for headers that are too many or too large, or frame the body in two ways."""
    if len(headers) > HEADERS_MAX:
        raise BadHead("too many headers")
    text = b"".join([part for pair in headers for part in pair])
    if len(text) + 2 * len(headers) > HEAD_BYTES_MAX:
        raise BadHead("the head is too large")
    if CONTROLS.search(text + reason) or version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadHead("the head is not HTTP/1.1")
    if {b"content-length", b"transfer-encoding"} <= {name.lower() for name, _ in headers}:
        raise BadHead("a length beside chunks")


def _unfolded(head: bytes) -> bytes:
    if head.partition(b"\n")[2][:1] in (b" ", b"\t"):
        raise BadHead("the head is not HTTP/1.1")
    return FOLD.sub(b" ", head)


def _in_utf_8(head: bytes) -> bytes:
    try:
        head.partition(b"\n")[2].decode()
    except UnicodeDecodeError:
        return head.decode("latin-1").encode()
    return head


def _framed_once(head: bytes, framing: list[tuple[bytes, bytes]]) -> bytes:
    codings = [value.strip(b" \t").lower() for name, value in framing if name.lower() == b"transfer-encoding"]
    given = [value for name, value in framing if name.lower() == b"content-length"]
    lengths = {length.strip(b" \t") for value in given for length in value.split(b",")}
    if codings:
        if codings != [b"chunked"]:
            raise BadHead("an unknown transfer coding")
        if lengths:
            raise BadHead("a length beside chunks")
        return head
    if len(lengths) > 1 or not LENGTH.fullmatch(length := lengths.pop()):
        raise BadHead("no single length")
    return LENGTH_LINE.sub(b"", head).rstrip(b"\r\n") + b"\r\ncontent-length: %b\r\n\r\n" % length
