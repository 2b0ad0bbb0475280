"""The HTTP proxy for provider calls, as named in the settings; the environment's variables are ignored.

https   CONNECT provider:443 -> 200 -> TLS with the provider, as without a proxy
http    the request itself, with an absolute URL
in the private network (`is_private_host`): no proxy
"""

import ipaddress
from functools import lru_cache

from dub5.service.wire.base import FailureKind, Stage, WireFailure

PRIVATE_SUFFIXES = (".localhost", ".local", ".internal")
# A proxy's answer to CONNECT -> what happened to the provider's connection.
TUNNEL_FAILURES = {502: FailureKind.REFUSED, 503: FailureKind.REFUSED, 504: FailureKind.TIMEOUT}


@lru_cache(maxsize=1024)
def is_private_host(host: str) -> bool:
    """Return whether the host is in the private network, where a proxy would reach a different host or none.

    Private are loopback, private and link-local addresses, names without a dot, and PRIVATE_SUFFIXES.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        name = host.rstrip(".").lower()
        return "." not in name or name.endswith(PRIVATE_SUFFIXES)
    return address.is_private


def tunnel_failure(status: int) -> WireFailure:
    """Build the failure for a proxy that refused the tunnel: nothing was sent to the provider."""
    kind = TUNNEL_FAILURES.get(status, FailureKind.PROTOCOL)
    return WireFailure(Stage.CONNECT, kind, sent=False, detail=f"the proxy answered {status}")
