"""Server-sent events, as they arrive in pieces. Call `sse_data(pieces)`."""

from collections.abc import Iterator


def sse_data(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the data of each event. An event without its blank line has not arrived."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n\n")
        for event in whole:
            lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines)
