"""Requests as the dialects get them."""

import msgspec

from dub5.service.model import Caller, ChatBody, ChatRequest, EmbedBody, EmbedRequest


def request(**fields: object) -> ChatRequest:
    """Return a chat request with these fields beside its model and message."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], **fields}
    raw = msgspec.json.encode(body)
    return ChatRequest(
        "req_1",
        Caller(),
        msgspec.json.decode(raw, type=ChatBody),
        msgspec.json.decode(raw, type=dict[str, msgspec.Raw]),
    )


def embed_request(**fields: object) -> EmbedRequest:
    """Return an embeddings request with these fields beside its model and input."""
    raw = msgspec.json.encode({"model": "e", "input": "Hi", **fields})
    body = msgspec.json.decode(raw, type=EmbedBody)
    return EmbedRequest("req_1", Caller(), body, msgspec.json.decode(raw, type=dict[str, msgspec.Raw]))
