"""A client of the whole service over simulated providers of any persona, in virtual time."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai

from dub5.service.app import Service
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Secret, Settings
from dub5.simulators.personas import PERSONAS
from dub5.simulators.script import Respond, Script, SimRequest
from dub5.simulators.virtual import AppClient, AppResponse, VirtualWire, run
from tests.support.play import provider
from tests.support.world import body

DIALECTS = ("openai", "anthropic", "mistral")


class DialectClient:
    """A client of a service with these providers behind the model "chat", in this order.

    `usual`: the fields of each request, unless it says otherwise.
    """

    def __init__(self, *personas: str, api_version: str | None, usual: Mapping[str, Any]) -> None:
        urls = {name: f"http://{name}.test" + ("" if name == "anthropic" else "/v1") for name in personas}
        dialects = {name: name if name in DIALECTS else "openai" for name in personas}
        settings = Settings(
            provider=tuple(
                ProviderSettings(
                    name,
                    dialects[name],  # type: ignore[arg-type]
                    urls[name],
                    api_version=api_version if name == "anthropic" else None,
                )
                for name in personas
            ),
            route=(RouteSettings("chat", tuple(f"{name}/{PERSONAS[name].models[0]}" for name in personas)),),
        )
        self.asked: list[SimRequest] = []  # what the providers received
        wire = VirtualWire({urls[name]: self._noting(provider(name)) for name in personas})
        keys = {name: (Secret(f"sk-{name}"),) for name in personas}
        self.service = Service(LoadedSettings(settings, keys, ()), wire=wire, seed="test")
        self.client = AppClient(self.service.asgi)
        self._usual = usual

    def _noting(self, respond: Respond) -> Respond:
        def noted(request: SimRequest) -> Script:
            self.asked.append(request)
            return respond(request)

        return noted

    async def ask(self, headers: Mapping[str, str] | None = None, **fields: Any) -> AppResponse:
        """Send one chat request and return its response."""
        sent = body(**{**self._usual, **fields})
        answer: AppResponse = await self.client.request(
            "POST", "/v1/chat/completions", json=sent, headers=headers
        )
        return answer


def sdk(persona: str) -> openai.OpenAI:
    """Return the official package's client of a service over this provider, anew for each request."""

    async def answered(request: httpx.Request) -> AppResponse:
        async with chat(persona) as client:
            sent: AppResponse = await client.client.request(
                request.method,
                request.url.path,
                headers={"content-type": "application/json"},
                body=request.content,
            )
            return sent

    def respond(request: httpx.Request) -> httpx.Response:
        answer = run(answered(request))
        return httpx.Response(answer.status, headers=answer.headers, content=answer.body)

    http = httpx.Client(transport=httpx.MockTransport(respond))
    return openai.OpenAI(api_key="k", base_url="http://x.test/v1", max_retries=0, http_client=http)


@asynccontextmanager
async def chat(
    *personas: str, api_version: str | None = None, usual: Mapping[str, Any] = {}
) -> AsyncIterator[DialectClient]:
    """Open a client."""
    built = DialectClient(*personas, api_version=api_version, usual=usual)
    async with built.client:
        yield built
