"""`/v1/embeddings`: unit vectors drawn from the text: equal for equal texts, far apart for others."""

import base64
import hashlib
import math
import random
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from dub5.simulators.personas.base import CHARS_PER_TOKEN, Refusal

DIMENSIONS = 256  # unless the request says otherwise
DIMENSIONS_MAX = 4096
INPUTS_MAX = 2048


def embeddings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of the answer. Raises Refusal."""
    texts = _texts(fields.get("input"))
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(400, "you must provide a model parameter")
    size = fields.get("dimensions", DIMENSIONS)
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= DIMENSIONS_MAX:
        message = f"Invalid value for 'dimensions': must be between 1 and {DIMENSIONS_MAX}."
        raise Refusal(400, message, param="dimensions")
    form = fields.get("encoding_format", "float")
    if form not in ("float", "base64"):
        message = f"Invalid value: '{form}'. Supported values are: 'float' and 'base64'."
        raise Refusal(400, message, param="encoding_format", code="invalid_value")
    data = [
        {"object": "embedding", "index": i, "embedding": _packed(vector(text, size), form)}
        for i, text in enumerate(texts)
    ]
    tokens = sum(max(1, len(text) // CHARS_PER_TOKEN) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def vector(text: str, size: int) -> list[float]:
    """Return the unit vector of a text."""
    rng = random.Random(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    drawn = [rng.gauss(0.0, 1.0) for _ in range(size)]
    length = math.sqrt(sum(x * x for x in drawn)) or 1.0
    return [x / length for x in drawn]


def _packed(values: Sequence[float], form: str) -> object:
    """Encode as numbers, or as little-endian float32 in base64, which the official package requests."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode() if form == "base64" else values


def _texts(given: object) -> list[str]:
    """Return the texts of an input: a text, several texts, tokens, or several lists of tokens."""
    if isinstance(given, str):
        many: list[Any] = [given]
    elif isinstance(given, list) and given and all(isinstance(x, int) for x in given):
        many = [given]
    else:
        many = given if isinstance(given, list) else []
    if not many or len(many) > INPUTS_MAX or not all(isinstance(x, (str, list)) and x for x in many):
        raise Refusal(400, "'$.input' is invalid. Please check the API reference.", param="input")
    return [x if isinstance(x, str) else ",".join(map(str, x)) for x in many]
