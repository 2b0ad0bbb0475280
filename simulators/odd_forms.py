"""Odd forms: a stream as unusual servers write it. Its answer stays the same, and ends as it did."""

from typing import Literal, get_args

from dub5.simulators.faults.base import is_stream
from dub5.simulators.script import Data, Head, Script

OddForm = Literal["pings", "json_type", "crlf", "finish_everywhere"]
ODD_FORMS: tuple[OddForm, ...] = get_args(OddForm)
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def in_odd_form(script: Script, form: OddForm) -> Script:
    """Rewrite the streams of a script.

    pings: an event that says nothing before each token; json_type: the content type of JSON; crlf: other line
    ends; finish_everywhere: a finish reason in every chunk.
    """
    stream = False
    for action in script:
        if isinstance(action, Head):
            stream = is_stream(action)
            json_type = {"content-type": "application/json"} if stream and form == "json_type" else {}
            yield Head(action.status, {**action.headers, **json_type})
        elif isinstance(action, Data) and stream:
            if form == "pings" and action.tokens:
                yield Data(PING)
            yield Data(_rewritten(action.data, form), action.tokens)
        else:
            yield action


def _rewritten(data: bytes, form: OddForm) -> bytes:
    if form == "crlf":
        return data.replace(b"\n", b"\r\n")
    if form == "finish_everywhere":
        return data.replace(b'"finish_reason":null', b'"finish_reason":"stop"')
    return data
