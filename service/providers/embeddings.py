"""Embeddings answers: one vector per input, as numbers or as base64, whichever the client requested.

{"object": "list", "usage": {...},
 "data": [{"object": "embedding", "index": 0, "embedding": [0.1, ...] | "zczMPQ=="}]}
"""

import base64
import binascii
import math
import sys
from array import array

import msgspec
from msgspec import Raw, Struct

from dub5.service.model import EmbedRequest, Reply
from dub5.service.providers.base import ProviderFault, event_fault, refusal_or
from dub5.service.providers.usage import add_usage, estimate_prompt, parse_usage


class _Body(Struct):
    data: list[dict[str, Raw]] | None = None
    usage: object = None
    error: object = None


_BODY = msgspec.json.Decoder(_Body)
_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_NUMBERS = msgspec.json.Decoder(list[float])
_TEXT = msgspec.json.Decoder(str)


def reply_with_vectors(body: bytes, request: EmbedRequest) -> Reply:
    """Return the answer in the client's encoding, unchanged where that is the same. Raises ProviderFault."""
    try:
        parsed = _BODY.decode(body)
        if not body.isascii():
            body.decode()  # the decoder does not check the strings that it skips
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise refusal_or("not_json" if body[:1] not in (b"{", b"[") else "garbled", body) from None
    if parsed.error is not None:
        raise event_fault(body)
    if parsed.data is None:
        raise refusal_or("garbled", body)
    if len(parsed.data) != request.count:
        raise ProviderFault("truncated" if parsed.data else "empty_answer")
    as_text = request.body.encoding_format == "base64"
    vectors = [_vector(bytes(item.get("embedding", b"null")), as_text) for item in parsed.data]
    if any(vector is not None for vector in vectors):
        data = [
            item if vector is None else {**item, "embedding": vector}
            for item, vector in zip(parsed.data, vectors, strict=True)
        ]
        body = msgspec.json.encode({**_FIELDS.decode(body), "data": data})
    if (usage := parse_usage(parsed.usage)) is not None:
        return Reply(body, usage)
    usage = estimate_prompt(request)
    return Reply(add_usage(body, usage), usage)


def _vector(raw: bytes, as_text: bool) -> Raw | None:
    """Return the vector in the other encoding; None where it has the right one already."""
    if len(raw) <= 2 or raw[:1] not in (b"[", b'"'):
        raise ProviderFault("garbled")
    if (raw[:1] == b'"') == as_text:
        return None
    try:
        if as_text:
            packed = _little(array("f", _NUMBERS.decode(raw)))
            return Raw(msgspec.json.encode(base64.b64encode(packed).decode()))
        packed = base64.b64decode(_TEXT.decode(raw), validate=True)
        return Raw(msgspec.json.encode(_numbers(packed)))
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, ValueError, OverflowError):
        raise ProviderFault("garbled") from None


def _little(numbers: "array[float]") -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _numbers(packed: bytes) -> list[float]:
    numbers = array("f")
    numbers.frombytes(packed)  # ValueError unless it is whole floats
    if sys.byteorder == "big":
        numbers.byteswap()
    if not all(map(math.isfinite, numbers)):
        raise ValueError("JSON has no such numbers")
    return numbers.tolist()
