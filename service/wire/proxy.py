"""The proxy between us and the providers, named in the settings; the environment's is never looked at.

https   CONNECT provider:443 -> 200 -> TLS with the provider, as without a proxy
http    the request itself, its address written in full
in our own network (`is_private_host`): no proxy
"""

import ipaddress
from functools import lru_cache

from dub5.service.wire.base import FailureKind, Stage, WireFailure

PRIVATE_SUFFIXES = (".localhost", ".local", ".internal")
TUNNEL_FAILURES = {
    502: FailureKind.REFUSED,
    503: FailureKind.REFUSED,
    504: FailureKind.TIMEOUT,
}  # what proxies say of the provider


@lru_cache(maxsize=1024)
def is_private_host(host: str) -> bool:
    """Whether it is in our own network: a loopback, private or link-local address, a name without a dot, or one that
    no public server can have. What a proxy would find under these is something else, or nothing."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        name = host.rstrip(".").lower()
        return "." not in name or name.endswith(PRIVATE_SUFFIXES)
    return address.is_private


def tunnel_failure(status: int) -> WireFailure:
    """The proxy answered CONNECT with something else than a tunnel: nothing was sent to the provider."""
    kind = TUNNEL_FAILURES.get(status, FailureKind.PROTOCOL)
    return WireFailure(Stage.CONNECT, kind, sent=False, detail=f"the proxy answered {status}")
