"""Server-sent events, however the bytes are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.providers.sse import EventTooLong, SseDecoder

STREAM = (
    b"\xef\xbb\xbf: a comment\r\n\r\nevent: ping\ndata: {}\n\ndata: one\rdata: two\r\r"
    b"data:no space\r\nid: 7\r\nretry: 10\r\n\r\ndata\n\n: OPENROUTER PROCESSING\n\ndata: cut off"
)
EVENTS = [(b"ping", b"{}"), (b"", b"one\ntwo"), (b"", b"no space"), (b"", b"")]


def decode(*pieces: bytes) -> list[tuple[bytes, bytes]]:
    decoder = SseDecoder(1000)
    return [event for piece in pieces for event in decoder.feed(piece)]


def test_the_whole_format() -> None:
    """Comments, names, several data lines, all three line ends, a BOM; an unfinished event is none."""
    assert decode(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_split(cuts: list[int]) -> None:
    """Splits of the bytes by the network change nothing."""
    edges = [0, *sorted(cuts), len(STREAM)]
    assert decode(*(STREAM[a:b] for a, b in pairwise(edges))) == EVENTS


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_the_last_event(end: bytes) -> None:
    """The last event is there as soon as its empty line is, whatever ends a line."""
    assert decode(b"data: one" + end + end) == [(b"", b"one")]
    assert decode(b"data: one" + end, end) == [(b"", b"one")]


def test_an_empty_line_of_data() -> None:
    """An empty data line is the first half of its event, though the rest comes alone."""
    assert decode(b": begun\n\ndata:\n", b"data: two\n\n", b"data: three\n\n") == [
        (b"", b"\ntwo"),
        (b"", b"three"),
    ]


def test_byte_by_byte() -> None:
    """A stream sent byte by byte gives the same events."""
    assert decode(*(bytes([byte]) for byte in STREAM)) == EVENTS


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_any_bytes(pieces: list[bytes]) -> None:
    """No input raises, and none is held beyond its event."""
    decode(*pieces)


@pytest.mark.parametrize(
    "endless", [b"x" * 200, b"data: " + b"x" * 200, b"data: xxxxx\n" * 50, b"data:\n" * 50, b"data\r\n" * 50]
)
def test_an_endless_event(endless: bytes) -> None:
    """An endless event is not buffered for ever."""
    decoder = SseDecoder(100)
    with pytest.raises(EventTooLong):
        decoder.feed(endless)


def test_an_event_that_began_before() -> None:
    """The quick way for whole events is not taken inside another one."""
    assert decode(b"\n", b"data\n", b"data: x\n\n") == [(b"", b"\nx")]
    assert decode(b"\n", b"event: e\n", b"data: x\n\n") == [(b"e", b"x")]
    assert decode(b"\n", b"da", b"ta: x\n\n") == [(b"", b"x")]
    assert decode(b"\n", b"data: a\n\ndata: b\ndata: c\n\n") == [(b"", b"a"), (b"", b"b\nc")]
