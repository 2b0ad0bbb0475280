"""Requests for the tests of the cache, and a recorder of its events."""

import msgspec

from dub5.service.config.options import CacheOptions
from dub5.service.events import CacheLooked, Event
from dub5.service.model import Caller, ChatBody, ChatRequest

ON = CacheOptions(enabled=True, ttl_s=60.0)
MARK = "mark"


def request(caller: str = "a", text: str | None = None, **fields: object) -> ChatRequest:
    """Return a request that may be answered from the cache. `text`: its JSON, in place of `fields`."""
    asked = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, **fields}
    raw = msgspec.json.encode(asked) if text is None else text.encode()
    body = msgspec.json.decode(raw, type=ChatBody)
    return ChatRequest("req_1", Caller(caller), body, msgspec.json.decode(raw, type=dict[str, msgspec.Raw]))


class EventRecorder:
    """A subscriber that records events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def results(self) -> list[str]:
        """The results of the lookups in the cache."""
        return [event.result for event in self.events if isinstance(event, CacheLooked)]
