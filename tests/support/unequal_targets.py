"""Two targets of one route, of which the second can only chat."""

from typing import Any, Self

from dub5.service.app import Service
from dub5.service.config.settings import (
    DialectOverrides,
    LoadedSettings,
    ProviderSettings,
    RouteSettings,
    Settings,
)
from dub5.simulators.script import Respond, Script, SimRequest
from dub5.simulators.virtual import AppClient, VirtualWire
from tests.support.world import STRICT, body, status

DOWN = status(500, b"{}")
TOOL = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}
PLAIN_ONLY = DialectOverrides(
    refuses=("tools", "functions", "response_format", "logprobs", "messages.content.image_url")
)


class UnequalTargets:
    """`able/m` can do everything, `plain/m` only chat, in that order behind "chat"."""

    def __init__(
        self, capabilities: Respond, plain: Respond, windows: tuple[int | None, int | None] = (None, None)
    ) -> None:
        self.asked: list[str] = []
        responds = {
            "http://able.test/v1": self._noting("able", capabilities),
            "http://plain.test/v1": self._noting("plain", plain),
        }
        tokens = [{} if window is None else {"m": window} for window in windows]
        providers = (
            ProviderSettings("able", "openai", "http://able.test/v1", context_tokens=tokens[0]),
            ProviderSettings(
                "plain", "openai", "http://plain.test/v1", context_tokens=tokens[1], overrides=PLAIN_ONLY
            ),
        )
        settings = Settings(providers, (RouteSettings("chat", ("able/m", "plain/m"), timeouts=STRICT),))
        self.client = AppClient(
            Service(LoadedSettings(settings, {}, ()), wire=VirtualWire(responds), seed="test").asgi
        )

    def _noting(self, name: str, respond: Respond) -> Respond:
        def noted(request: SimRequest) -> Script:
            self.asked.append(name)
            return respond(request)

        return noted

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.__aexit__(*error)

    async def ask(self, **fields: Any) -> Any:
        """Send one chat request and return its response."""
        return await self.client.request("POST", "/v1/chat/completions", json=body(**fields))

    async def told(self) -> dict[str, str]:
        """Return the features of the route, which three endpoints report alike."""
        found = (await self.client.request("GET", "/v1/models/chat")).json()["features"]
        status_ = (await self.client.request("GET", "/status")).json()
        listed = (await self.client.request("GET", "/v1/models")).json()["data"]
        assert status_["routes"][0]["features"] == found == listed[0]["features"]
        return dict(found)
