"""A service whose rate limits are in a Redis; run as a module, a process that sends it requests when told.

python -m tests.support.limited_service URL COUNT REQUESTS     each line on stdin: REQUESTS at once
"""

import asyncio
import sys
from collections import Counter

from dub5.service.app import Service
from dub5.service.config.options import CacheBounds, LimitOptions, LimitsOptions, RedisOptions
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Secret, Settings
from dub5.simulators.virtual import AppClient, VirtualWire
from tests.support.world import body, healthy

PATIENCE_S = 2.0  # a busy machine makes Redis slow, not wrong


def limited_service(url: str, count: int, *, timeout_s: float = PATIENCE_S) -> Service:
    """Return a service with one healthy provider that accepts `count` requests a minute from an address."""
    settings = Settings(
        provider=(ProviderSettings("one", "openai", "http://one.test/v1"),),
        route=(RouteSettings("chat", ("one/m",)),),
        cache=CacheBounds(redis=RedisOptions(url=url, timeout_s=timeout_s)),
        limits=LimitsOptions(ip=LimitOptions(count), shared=True),
    )
    wire = VirtualWire({"http://one.test/v1": healthy(first_s=0.005, gap_s=0.0)})
    return Service(LoadedSettings(settings, {"one": (Secret("k"),)}, (), redis_url=Secret(url)), wire=wire)


async def ask_at_once(client: AppClient, requests: int) -> Counter[int]:
    """Send requests at once; return how many had each status."""
    asked = [client.request("POST", "/v1/chat/completions", json=body()) for _ in range(requests)]
    return Counter(reply.status for reply in await asyncio.gather(*asked))


async def main(url: str, count: int, requests: int) -> None:
    """Send requests at each line on stdin, and write how many were answered."""
    service = limited_service(url, count)
    async with AppClient(service.asgi) as client:
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            statuses = await ask_at_once(client, requests)
            lost = service.board.happened["rate_limit_local"]
            print(statuses[200], statuses[429], lost, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
