"""Settings of hosts, TLS, proxies and origins: what could not mean what it says is refused at the start."""

from typing import Any

import pytest

from dub5.service.config.edge_checks import edge_problems, edge_warnings
from dub5.service.config.settings import ServerSettings


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({"allowed_hosts": ("Chat.example.com",)}, "in lower case"),
        ({"allowed_hosts": ("https://chat.example.com",)}, "without scheme and port"),
        ({"allowed_hosts": ("chat.example.com:443",)}, "without scheme and port"),
        ({"allowed_hosts": ("*",)}, "must be a host name"),
        ({"allowed_hosts": ("*.com",)}, "a name of two parts"),
        ({"allowed_hosts": ("a.*.com",)}, "must be a host name"),
        ({"allowed_hosts": ("",)}, "must be a host name"),
        ({"allowed_hosts": ("b\xfccher.example",)}, "xn--"),
        ({"origins": ("*",)}, "must not have a wildcard"),
        ({"origins": ("https://*.vercel.app",)}, "vercel:project/team"),
        ({"origins": ("null",)}, "must be written https://host"),
        ({"origins": ("app.example.com",)}, "must be written https://host"),
        ({"origins": ("https://app.example.com/",)}, "with nothing after it"),
        ({"origins": ("https://App.example.com",)}, "in lower case"),
        ({"origins": ("https://app.example.com:443",)}, "browsers leave it out"),
        ({"origins": ("http://localhost:80",)}, "browsers leave it out"),
        ({"origins": ("vercel:dub5",)}, "vercel:project/team"),
        ({"origins": ("vercel:dub5/.*",)}, "must be written vercel:project/team"),
        ({"origins": ("vercel:Dub5/acme",)}, "in lower case"),
        ({"trusted_proxies": ("10.0.0.1/8",)}, "has host bits set"),
        ({"trusted_proxies": ("::ffff:10.0.0.0/104",)}, "as the IPv4 address"),
        ({"trusted_proxies": ("proxy.internal",)}, "does not appear to be"),
        ({"https": "require"}, "needs server.trusted_proxies"),
    ],
    ids=str,
)
def test_refused(server: dict[str, Any], words: str) -> None:
    """Each is refused with one sentence that says how it would be written."""
    (problem,) = edge_problems(ServerSettings(**server))
    assert words in problem and problem.startswith("server.") and problem.endswith(".")


def test_accepted() -> None:
    """The forms of the documentation are accepted without a word."""
    server = ServerSettings(
        allowed_hosts=(
            "chat.example.com",
            "*.example.com",
            "localhost",
            "127.0.0.1",
            "[::1]",
            "xn--bcher-kva.example",
        ),
        https="redirect",
        trusted_proxies=("10.0.0.0/8", "203.0.113.7", "fd00::/8"),
        origins=(
            "https://app.example.com",
            "http://localhost:5173",
            "http://[::1]:3000",
            "vercel:dub5/acme-team",
        ),
    )
    assert edge_problems(server) == edge_warnings(server) == []


def test_a_redirect_to_any_host() -> None:
    """A redirect goes to the host of the request: a list of hosts says which are ours."""
    (warning,) = edge_warnings(ServerSettings(https="redirect", trusted_proxies=("10.0.0.0/8",)))
    assert "without server.allowed_hosts" in warning


def test_everybody_is_trusted() -> None:
    """To trust every address is possible, and said."""
    (warning,) = edge_warnings(ServerSettings(trusted_proxies=("0.0.0.0/0",)))
    assert "trusts every address" in warning
