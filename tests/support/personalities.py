"""A service whose routes have personalities, over one simulated provider of any dialect."""

import json
from collections.abc import Iterable
from typing import Any

from dub5.service.app import Service
from dub5.service.config.personalities import SHIPPED, read_shipped
from dub5.service.config.settings import (
    LoadedSettings,
    Personality,
    ProviderSettings,
    RouteSettings,
    Secret,
    Settings,
)
from dub5.simulators.script import Respond, Script, SimRequest
from dub5.simulators.virtual import AppClient, AppResponse, VirtualWire
from tests.support.play import provider
from tests.support.world import body

URL = "http://one.test/v1"


def loaded_settings(
    *personalities: Personality, dialect: str = "openai", listed: Iterable[str] = (), **route: Any
) -> LoadedSettings:
    """Return settings with one provider and the route "chat". `listed`: of the route; default: all."""
    known = {name: read_shipped(name) for name in SHIPPED} | {one.name: one for one in personalities}
    names = tuple(listed) or tuple(known)
    settings = Settings(
        (ProviderSettings("one", dialect, URL),),  # type: ignore[arg-type]
        (RouteSettings("chat", ("one/m",), personalities=names, **route),),
    )
    return LoadedSettings(settings, {"one": (Secret("sk-one"),)}, (), personalities=known)


class PersonalityWorld:
    """The service over one provider; `asked` has the bodies that the provider got, as bytes."""

    def __init__(self, loaded: LoadedSettings, respond: Respond | None = None) -> None:
        self.asked: list[bytes] = []
        self._dialect = loaded.settings.provider[0].dialect
        self._respond = respond or provider(self._dialect)
        self.wire = VirtualWire({URL: self._noting})
        self.service = Service(loaded, wire=self.wire, seed="test")
        self.client = AppClient(self.service.asgi)

    def _noting(self, request: SimRequest) -> Script:
        self.asked.append(request.body)
        path = request.path.removeprefix("/v1") if self._dialect == "anthropic" else request.path
        return self._respond(SimRequest(request.method, path, request.headers, request.body))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages of the last request to the provider."""
        messages: list[dict[str, Any]] = json.loads(self.asked[-1])["messages"]
        return messages

    async def ask(self, model: str = "chat", **fields: Any) -> AppResponse:
        """Send a chat request and return its whole reply."""
        return await self.client.request(
            "POST", "/v1/chat/completions", json=body(**{"model": model, **fields})
        )
