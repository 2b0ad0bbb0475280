"""A provider that knows its keys: it answers those that it accepts, and refuses all others with a 401."""

from dub5.service.events import Event
from dub5.simulators.script import Respond, Script, SimRequest
from tests.support.world import ServiceWorld, healthy, reply

LIST = b'{"object": "list", "data": []}'
REFUSED = b'{"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}'


class KeyedProvider:
    """A provider with keys, of which it accepts some at any moment. `lists`: answers GET models instead."""

    def __init__(
        self,
        *accepted: str,
        answer: Respond | None = None,
        lists: Respond | None = None,
    ) -> None:
        self.accepted = set(accepted)
        self.calls: list[str] = []  # the key of each chat
        self.checks: list[str] = []  # the key of each GET models, "" without one
        self._answer = answer or healthy()
        self._lists = lists

    def __call__(self, request: SimRequest) -> Script:
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.method == "GET":
            self.checks.append(key)
            if self._lists is not None:
                return self._lists(request)
            return reply(200, LIST) if key in self.accepted else reply(401, REFUSED)
        self.calls.append(key)
        return self._answer(request) if key in self.accepted else reply(401, REFUSED)


def heard(world: ServiceWorld, *kinds: type[Event]) -> list[Event]:
    """Return a list that will have the events of these kinds."""
    found: list[Event] = []
    world.service.events.subscribe(lambda e: found.append(e) if isinstance(e, kinds) else None)
    return found
