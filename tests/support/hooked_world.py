"""A service in virtual time that tells a hook of incidents, and what the hook has been sent."""

import json
from typing import Any

from msgspec.structs import replace

from dub5.service.app import Service
from dub5.service.config.settings import NotifyHook, NotifySettings, Secret
from dub5.simulators.script import Respond, SimRequest
from dub5.simulators.virtual import AppClient, VirtualWire
from tests.support.world import ServiceWorld, healthy, status

HOOK = "https://hook.test"
SECRET = "a-secret-that-signs-the-messages-of-tests"
TOKEN = "token-in-the-address"
KINDS = NotifySettings().events


class HookedWorld(ServiceWorld):
    """A service with one provider and a hook: `async with HookedWorld(answer=status(204)) as world`.

    `sent`: the data of each message that the hook received, tries included. `requests`: as they came.
    """

    def __init__(self, answer: Respond | None = None, secrets: tuple[str, ...] = (SECRET,), **more: Any):
        super().__init__(**({"one": healthy()} | more))
        self.requests: list[SimRequest] = []
        respond = answer or status(204)

        def noted(request: SimRequest) -> Any:
            self.requests.append(request)
            return respond(request)

        provider = self._noting("one", more.get("one", healthy()))
        self.wire = VirtualWire({"http://one.test/v1": provider, HOOK: noted})
        hook = NotifyHook(Secret(f"{HOOK}/{TOKEN}"), tuple(map(Secret, secrets)), KINDS)
        self.loaded = replace(self.loaded, notify=hook)
        self.service = Service(self.loaded, wire=self.wire, seed="test")
        self.client = AppClient(self.service.asgi)

    @property
    def sent(self) -> list[dict[str, Any]]:
        """Return the data of each message, in their order."""
        return [json.loads(request.body)["data"] for request in self.requests]
