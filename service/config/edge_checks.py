"""Host names and origins of [server]: the pattern of each, and what is wrong with them.

    allowed_hosts    "chat.example.com"            this name, with any port
                     "*.example.com"               every name below it, not the name itself
    origins          "https://app.example.com"     this origin, letter by letter
                     "vercel:project/team"         the pages of one project of one team at Vercel

A pattern is matched against the whole of a header, never against a part.
"""

import re
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network

from dub5.service.config.settings import ServerSettings

LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
NAME = rf"{LABEL}(?:\.{LABEL})*"
HOST = re.compile(rf"{NAME}|\[[0-9a-f:.]+\]")
WILDCARD = re.compile(rf"\*\.({LABEL}(?:\.{LABEL})+)")
PORT = r"(?::[0-9]{1,5})?"
ORIGIN = re.compile(rf"(https?)://({NAME}|\[[0-9a-f:.]+\])(?::([0-9]{{1,5}}))?")
DEFAULT_PORTS = {"http": "80", "https": "443"}
VERCEL = "vercel:"
VERCEL_PROJECT = re.compile(rf"({LABEL})/({LABEL})")
VERCEL_BRANCH = "[a-z0-9-]{1,58}"  # a hash, or `git-` and a branch; a whole label has up to 63 characters


def host_pattern(name: str) -> str:
    """Return the pattern of a Host header, in lower case. Raises ValueError with the reason."""
    if found := WILDCARD.fullmatch(name):
        return rf"(?:[a-z0-9_-]{{1,63}}\.)+{re.escape(found[1])}{PORT}"
    if not HOST.fullmatch(name):
        raise ValueError(
            "must be a host name in lower case, without scheme and port, or *. and a name of two parts"
            " (other alphabets as xn--...)"
        )
    return re.escape(name) + PORT


def origin_pattern(text: str) -> str:
    """Return the pattern of an Origin header. Raises ValueError with the reason."""
    if text.startswith(VERCEL):
        if not (found := VERCEL_PROJECT.fullmatch(text.removeprefix(VERCEL))):
            raise ValueError("must be written vercel:project/team, in lower case")
        project, team = map(re.escape, found.groups())
        return rf"https://{project}(?:(?:-{VERCEL_BRANCH})?-{team})?\.vercel\.app"
    if "*" in text:
        raise ValueError(
            "must not have a wildcard: list each origin; previews at Vercel are vercel:project/team"
        )
    if not (found := ORIGIN.fullmatch(text)):
        raise ValueError(
            "must be written https://host or https://host:port, in lower case, with nothing after it"
            " (other alphabets as xn--...)"
        )
    if found[3] == DEFAULT_PORTS[found[1]]:
        raise ValueError(f"must not have the port {found[3]}: browsers leave it out")
    return re.escape(text)


def edge_problems(server: ServerSettings) -> list[str]:
    """Return one sentence for each value that cannot be used."""
    found = [
        *_problems("allowed_hosts", server.allowed_hosts, host_pattern),
        *_problems("origins", server.origins, origin_pattern),
        *_problems("trusted_proxies", server.trusted_proxies, _proxy_network),
    ]
    if server.https != "off" and not server.trusted_proxies:
        found.append(
            f'server.https: "{server.https}" needs server.trusted_proxies: TLS ends at a proxy, and no other'
            " is believed to have used it, so each request would be refused."
        )
    return found


def edge_warnings(server: ServerSettings) -> list[str]:
    """Return one sentence for each value that is valid but hardly intended."""
    if any(_problems("trusted_proxies", server.trusted_proxies, ip_network)):
        return []
    found = []
    if server.https == "redirect" and not server.allowed_hosts:
        found.append(
            'server.https: "redirect" without server.allowed_hosts redirects to any host that is asked for.'
        )
    return found + [
        f"server.trusted_proxies: {text} trusts every address, so that a client may invent its own."
        for text in server.trusted_proxies
        if ip_network(text).prefixlen == 0
    ]


def _proxy_network(text: str) -> IPv4Network | IPv6Network:
    """Return the addresses of proxies. Raises ValueError with the reason."""
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError("must be written as the IPv4 address that it stands for")  # clients have that
    return network


def _problems(name: str, values: tuple[str, ...], parse: Callable[[str], object]) -> Iterator[str]:
    for value in values:
        try:
            parse(value)
        except ValueError as error:
            yield f"server.{name}: {value!r}: {str(error).rstrip('.')}."
