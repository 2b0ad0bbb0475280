"""Heads of requests, and what the edge decides about each."""

from dataclasses import dataclass, field

from dub5.service.api.edge_rules import RequestHead
from dub5.service.config.settings import ServerSettings

SERVER = ServerSettings(
    allowed_hosts=("chat.example.com", "*.example.org", "[::1]"),
    https="redirect",
    trusted_proxies=("10.0.0.0/8",),
    origins=("https://app.example.com", "http://localhost:5173", "vercel:dub5/acme-team"),
)
PROXY, STRANGER = "10.0.0.1", "203.0.113.7"
HOST, ORIGIN = "chat.example.com", "https://app.example.com"

PASSES, PREFLIGHT, REDIRECT = "passes", "204", "308"
BAD_HOST, BAD_ORIGIN, NO_TLS = "host_not_allowed", "origin_not_allowed", "https_required"


@dataclass(frozen=True)
class EdgeCase:
    """A head, by what is special about it, and the expected decision. `cors`: the origin that may read on."""

    name: str
    expected: str
    host: str | tuple[str, ...] = HOST
    method: str = "GET"
    path: str = ""  # empty: any
    scheme: str = "http"
    peer: str | None = PROXY
    proto: str | tuple[str, ...] = "https"
    origin: str | tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    cors: str | None = None

    def lines(self) -> list[tuple[bytes, bytes]]:
        """Return the header lines."""
        found: list[tuple[str, str]] = []
        for name, value in (("host", self.host), ("x-forwarded-proto", self.proto), ("origin", self.origin)):
            found += [(name, one) for one in ((value,) if isinstance(value, str) else value)]
        found += self.headers.items()
        return [(name.encode(), value.encode("latin-1")) for name, value in found]

    def head(self, path: str) -> RequestHead:
        """Return the head for one of our paths, if the case names none."""
        path = self.path or path
        return RequestHead(self.method, path.partition("?")[0], path, self.scheme, self.peer, self.lines())


def preflight(name: str, expected: str, origin: str | tuple[str, ...], cors: str | None = None) -> EdgeCase:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    return EdgeCase(name, expected, method="OPTIONS", origin=origin, headers=asked, cors=cors)


CASES = [
    # Hosts.
    EdgeCase("our host", PASSES),
    EdgeCase("with a port", PASSES, host="chat.example.com:8443"),
    EdgeCase("in upper case", PASSES, host="CHAT.Example.COM"),
    EdgeCase("below a wildcard", PASSES, host="a.b.example.org"),
    EdgeCase("an IPv6 literal", PASSES, host="[::1]:8080"),
    EdgeCase("the name of the wildcard itself", BAD_HOST, host="example.org"),
    EdgeCase("another host", BAD_HOST, host="evil.test"),
    EdgeCase("ours as a prefix", BAD_HOST, host="chat.example.com.evil.test"),
    EdgeCase("ours as a suffix", BAD_HOST, host="evilchat.example.com"),
    EdgeCase("the wildcard as a suffix without a dot", BAD_HOST, host="evilexample.org"),
    EdgeCase("a trailing dot", BAD_HOST, host="chat.example.com."),
    EdgeCase("userinfo", BAD_HOST, host="evil.test@chat.example.com"),
    EdgeCase("userinfo, the other way", BAD_HOST, host="chat.example.com@evil.test"),
    EdgeCase("a port with letters", BAD_HOST, host="chat.example.com:80a"),
    EdgeCase("an empty port", BAD_HOST, host="chat.example.com:"),
    EdgeCase("a path", BAD_HOST, host="chat.example.com/evil.test"),
    EdgeCase("an escape", BAD_HOST, host="chat%2eexample.com"),
    EdgeCase("another alphabet", BAD_HOST, host="ch\xe0t.example.com"),
    EdgeCase("no host", BAD_HOST, host=()),
    EdgeCase("an empty host", BAD_HOST, host=""),
    EdgeCase("two hosts, ours first", BAD_HOST, host=(HOST, "evil.test")),
    EdgeCase("two hosts, ours twice", BAD_HOST, host=(HOST, HOST)),
    EdgeCase("two hosts in one line", BAD_HOST, host=f"{HOST}, evil.test"),
    EdgeCase("an endless host", BAD_HOST, host="a." * 9_000 + "example.org"),
    EdgeCase("a forwarded host", BAD_HOST, host="evil.test", headers={"x-forwarded-host": HOST}),
    EdgeCase("a probe of the platform", PASSES, host="10.1.2.3:8080", path="/readyz"),
    EdgeCase("a probe without TLS", PASSES, host="10.1.2.3", proto=(), peer=STRANGER, path="/livez"),
    EdgeCase("a path that looks like a probe's", BAD_HOST, host="10.1.2.3", path="/livez/x"),
    # TLS.
    EdgeCase("a page without TLS", REDIRECT, proto="http"),
    EdgeCase("HEAD without TLS", REDIRECT, proto="http", method="HEAD"),
    EdgeCase("a question without TLS", NO_TLS, proto="http", method="POST"),
    EdgeCase("a proxy that says nothing", REDIRECT, proto=()),
    EdgeCase("nobody believes a stranger", REDIRECT, peer=STRANGER),
    EdgeCase("nobody believes a peer without an address", REDIRECT, peer=None),
    EdgeCase("the server itself has TLS", PASSES, scheme="https", peer=STRANGER, proto=()),
    EdgeCase("two proxies", PASSES, proto="https, http"),
    EdgeCase("a chain that began without TLS", REDIRECT, proto="http, https"),
    EdgeCase("upper case", PASSES, proto="HTTPS"),
    EdgeCase("nonsense", REDIRECT, proto="httpss"),
    # Origins.
    EdgeCase("a listed page asks", PASSES, method="POST", origin=ORIGIN, cors=ORIGIN),
    EdgeCase("a foreign page asks", PASSES, method="POST", origin="https://evil.test"),
    EdgeCase("a page without an origin", PASSES, method="POST", origin="null"),
    EdgeCase("OPTIONS that is no preflight", PASSES, method="OPTIONS", origin="https://evil.test"),
    EdgeCase("a page without TLS asks", NO_TLS, method="POST", proto="http", origin=ORIGIN, cors=ORIGIN),
    preflight("a preflight", PREFLIGHT, ORIGIN, ORIGIN),
    preflight("a foreign preflight", BAD_ORIGIN, "https://evil.test"),
    preflight("a preflight without an origin", BAD_ORIGIN, "null"),
    preflight("two origins", BAD_ORIGIN, (ORIGIN, ORIGIN)),
]

ORIGINS = {  # origin -> whether it is listed
    "https://app.example.com": True,
    "http://localhost:5173": True,
    "https://dub5.vercel.app": True,
    "https://dub5-git-main-acme-team.vercel.app": True,
    "https://dub5-git-feature-login-acme-team.vercel.app": True,
    "https://dub5-k3j9x0qpz-acme-team.vercel.app": True,
    "https://dub5-git-a-very-long-branch-name-is-cut-7f3a1b-acme-team.vercel.app": True,
    "http://app.example.com": False,
    "https://app.example.com:8443": False,
    "https://app.example.com/": False,
    "https://app.example.com.evil.test": False,
    "https://evil-app.example.com": False,
    "https://x.app.example.com": False,
    "https://app.example.com.": False,
    "https://evil@app.example.com": False,
    "https://APP.example.com": False,
    "https://app.exa\u0440mple.com".encode("utf-8").decode("latin-1"): False,
    "https://xn--pp-8ia.example.com": False,
    "https://app%2eexample.com": False,
    "http://localhost": False,
    "http://localhost:51730": False,
    "http://127.0.0.1:5173": False,
    "http://dub5.vercel.app": False,
    "https://vercel.app": False,
    "https://evil.vercel.app": False,
    "https://evildub5.vercel.app": False,
    "https://dub5-acme-team.vercel.app": True,
    "https://dub5--acme-team.vercel.app": False,
    "https://dub5-evil.vercel.app": False,
    "https://dub5-git-main-other-team.vercel.app": False,
    "https://dub5-git-main-acme-team.vercel.app.evil.test": False,
    "https://dub5-git-main-acme-teamXvercel.app": False,
    "https://dub5-git.main-acme-team.vercel.app": False,
    "https://dub5-GIT-main-acme-team.vercel.app": False,
    "https://" + "dub5-" + "x" * 59 + "-acme-team.vercel.app": False,
    "null": False,
    "": False,
    "*": False,
    "file://": False,
    "chrome-extension://app.example.com": False,
    "https://app.example.com https://evil.test": False,
    "https://app.example.com\thttps://evil.test": False,
}
