"""A resume, and services that answer questions about it."""

import json
from collections.abc import Iterator

from dub5.simulators.script import Action, Data, End, Head, Respond, Script, SimRequest, Wait
from tests.support.world import SSE, chunk, completion, reply

RESUME = """Jane Doe
jane.doe@example.org, Zurich

EXPERIENCE

Acme Corp, Zurich | Data Engineer | 2018-2020
- Led a team of 5 engineers and built 12 services in Go.
- Helped to build the billing platform.

Globex Ltd | Senior Data Engineer | 2020 - present
- Owns the ingestion pipeline (Kafka, Python).

EDUCATION
MSc Computer Science, ETH Zurich, 2014-2016
"""
TRUE = "She led a team of 5 engineers at Acme [4]."
SECOND = "She worked at Acme from 2018 to 2020 [3]."
LIE = "She led a team of 50 engineers at Acme [4]."


def saying(text: str, *, finish: str | None = "stop", piece_chars: int = 5, gap_s: float = 0.01) -> Respond:
    """Answer with this text, as JSON or as a stream of small pieces. `finish` None: the stream breaks off."""

    def respond(request: SimRequest) -> Script:
        if not json.loads(request.body).get("stream"):
            yield Wait(0.1)
            yield from reply(200, completion(text, finish))
            return
        yield from _streamed(text, finish, piece_chars, gap_s)

    return respond


def _streamed(text: str, finish: str | None, piece_chars: int, gap_s: float) -> Iterator[Action]:
    yield Head(200, SSE)
    for at in range(0, len(text), piece_chars):
        yield chunk({"content": text[at : at + piece_chars]})
        yield Wait(gap_s)
    if finish is not None:
        yield chunk({}, finish)
        yield Data(b"data: [DONE]\n\n")
    yield End()
