"""Without descriptors no provider is at fault: nothing opens, and the error says whose lack it is."""

from dub5.service.app import Service
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Settings
from dub5.service.wire.base import FailureKind, Stage, WireFailure, WireRequest, WireResponse
from dub5.simulators.virtual import AppClient, VirtualWire
from tests.support.world import body, healthy


async def test_a_lack_of_our_own() -> None:
    """Many calls without descriptors leave every breaker closed, every limit whole and every key awake; the
    first call with descriptors is answered by the first target."""
    lacking = True

    class LackingWire(VirtualWire):
        async def send(self, request: WireRequest) -> WireResponse:
            if lacking:
                raise WireFailure(Stage.CONNECT, FailureKind.LOCAL, sent=False)
            return await super().send(request)

    providers = tuple(ProviderSettings(name, "openai", f"http://{name}/v1") for name in ("one", "two"))
    settings = Settings(providers, (RouteSettings("chat", ("one/m", "two/m")),))
    wire = LackingWire({f"http://{provider.name}": healthy() for provider in providers})
    service = Service(LoadedSettings(settings, {}, ()), wire=wire, seed="test")
    async with AppClient(service.asgi) as client:
        for _ in range(50):
            answer = await client.request("POST", "/v1/chat/completions", json=body())
            assert answer.status == 503
            error = answer.json()["error"]
            assert error["code"] == "overloaded" and "of its own; no provider is at fault" in error["message"]
        seen = (await client.request("GET", "/status")).json()
        lacking = False
        answer = await client.request("POST", "/v1/chat/completions", json=body())
        assert (answer.status, answer.headers["x-dub5-target"]) == (200, "one/m")
    assert seen["incidents"] == []
    assert all(
        (row["health"], row["breaker"], row["limit"]) == ("healthy", "closed", row["limit_max"])
        for row in seen["targets"]
    )
