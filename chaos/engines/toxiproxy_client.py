"""A typed client for a Toxiproxy server: wraps toxiproxy-python, which lacks timeouts, updates and error
checks.

    with server.proxy("one", upstream) as proxy:                 deleted at the end, whatever happened
        with proxy.toxic("latency", {"latency": 300}): ...       lifted the safe way

Server 2.12 freezes when a latency is lifted whose clients have left, and on POST /reset. So this client has
no reset; it sets a latency to 0 and waits before lifting it. If the server still freezes, the client deletes
the proxy, which unfreezes the server, and creates it again on the same port. Calls block: use a thread.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
from toxiproxy.api import APIConsumer, validate_response
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

TIMEOUT_S = 5.0  # of every call: a frozen server must not block its client
DIRECT = {"http": "", "https": ""}  # ignore the proxy settings of the environment
DRAIN_S = 0.1  # for the bytes that a latency held back
SAFE_TO_LIFT: Mapping[str, Mapping[str, int]] = {"latency": {"latency": 0, "jitter": 0}}


class ToxiproxyError(Exception):
    """The server refused a call or did not answer. The message is the server's."""


class Conflict(ToxiproxyError):
    """The name is taken."""


class NoAnswer(ToxiproxyError):
    """No answer in time: the server is gone or frozen."""


class NoSuch(ToxiproxyError):
    """There is no proxy or toxic of this name."""


class _Api:
    """The API of one server. toxiproxy-python keeps the address in a class, so each server has its own
    subclass."""

    def __init__(self, host: str, port: int) -> None:
        self._consumer: Any = type("Consumer", (APIConsumer,), {"host": host, "port": port})
        self._base = f"http://{host}:{port}"

    def get(self, path: str) -> Any:
        return self._checked(lambda: self._consumer.get(path, timeout=TIMEOUT_S, proxies=DIRECT))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._checked(lambda: self._consumer.post(path, json=body, timeout=TIMEOUT_S, proxies=DIRECT))

    def delete(self, path: str) -> None:
        self._checked(lambda: self._consumer.delete(path, timeout=TIMEOUT_S, proxies=DIRECT))

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Update by PATCH; toxiproxy-python knows only the deprecated POST."""
        url = self._base + path
        return self._checked(
            lambda: validate_response(requests.patch(url, json=body, timeout=TIMEOUT_S, proxies=DIRECT))
        )

    def _checked(self, call: Any) -> Any:
        try:
            response = call()
        except ProxyExists as error:
            raise Conflict(_text(error)) from None
        except NotFound as error:
            raise NoSuch(_text(error)) from None
        except InvalidToxic as error:
            raise ToxiproxyError(_text(error)) from None
        except requests.RequestException as error:
            raise NoAnswer(f"no answer from {self._base}: {type(error).__name__}") from None
        if response.status_code >= 400:
            raise ToxiproxyError(f"{response.status_code}: {response.text.strip()[:200]}")
        return response.json() if response.content else None


def _text(error: Exception) -> str:
    """Return the message in the server's error page, which toxiproxy-python passes on as bytes."""
    answer = error.args[0] if error.args else b""
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return str(answer)


@dataclass(frozen=True, slots=True)
class Toxic:
    """A toxic as the server has it."""

    name: str
    kind: str
    stream: str
    attributes: Mapping[str, int]


class Proxy:
    """One proxied connection. `listen` is host:port with a real port."""

    def __init__(self, api: _Api, answer: Mapping[str, Any]) -> None:
        self.name = str(answer["name"])
        self.listen = str(answer["listen"])
        self.upstream = str(answer["upstream"])
        self._api = api
        self._path = f"/proxies/{self.name}"

    def add(self, kind: str, attributes: Mapping[str, int], stream: str = "downstream") -> Toxic:
        """Add a toxic to every connection. Shares are decided elsewhere: the server's own seed has no
        effect."""
        body = {"name": f"{kind}_{stream}", "type": kind, "stream": stream, "toxicity": 1.0}
        return _toxic(self._api.post(f"{self._path}/toxics", {**body, "attributes": dict(attributes)}))

    def update(self, toxic: Toxic, attributes: Mapping[str, int]) -> Toxic:
        """Change the attributes of a toxic."""
        return _toxic(self._api.patch(f"{self._path}/toxics/{toxic.name}", {"attributes": dict(attributes)}))

    def lift(self, toxic: Toxic) -> None:
        """Remove a toxic. If the server freezes, every connection of this proxy ends, and all its toxics."""
        try:
            if toxic.kind in SAFE_TO_LIFT:
                self.update(toxic, SAFE_TO_LIFT[toxic.kind])
                time.sleep(DRAIN_S)
            self._api.delete(f"{self._path}/toxics/{toxic.name}")
        except NoAnswer:
            self.thaw()

    def thaw(self) -> None:
        """Delete and recreate the proxy without toxics: a frozen server still does that."""
        self.delete()
        self._api.post("/proxies", {"name": self.name, "upstream": self.upstream, "listen": self.listen})

    def toxics(self) -> list[Toxic]:
        """Return the toxics that are set."""
        return [_toxic(answer) for answer in self._api.get(f"{self._path}/toxics")]

    def disable(self) -> None:
        """Refuse connections and end the open ones."""
        self._api.patch(self._path, {"enabled": False})

    def enable(self) -> None:
        """Listen again."""
        self._api.patch(self._path, {"enabled": True})

    def delete(self) -> None:
        """Delete the proxy; this also unfreezes a frozen server."""
        self._api.delete(self._path)

    @contextmanager
    def toxic(self, kind: str, attributes: Mapping[str, int], stream: str = "downstream") -> Iterator[Toxic]:
        """Set a toxic until the end of the block."""
        added = self.add(kind, attributes, stream)
        try:
            yield added
        finally:
            self.lift(added)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Disable the proxy until the end of the block."""
        self.disable()
        try:
            yield
        finally:
            self.enable()


class Toxiproxy:
    """A running server."""

    def __init__(self, host: str, port: int) -> None:
        self._api = _Api(host, port)

    def version(self) -> str:
        """Return its version; a server built by `go install` says `git`."""
        return str(self._api.get("/version")["version"])

    def create(self, name: str, upstream: str, listen: str = "127.0.0.1:0") -> Proxy:
        """Create a proxy; port 0 is any free port. Raises Conflict for the name, ToxiproxyError for the
        port."""
        body = {"name": name, "upstream": upstream, "listen": listen, "enabled": True}
        return Proxy(self._api, self._api.post("/proxies", body))

    def proxies(self) -> dict[str, Proxy]:
        """Return all proxies by name."""
        return {name: Proxy(self._api, answer) for name, answer in self._api.get("/proxies").items()}

    @contextmanager
    def proxy(self, name: str, upstream: str) -> Iterator[Proxy]:
        """Create a proxy until the end of the block."""
        proxy = self.create(name, upstream)
        try:
            yield proxy
        finally:
            proxy.delete()


def _toxic(answer: Mapping[str, Any]) -> Toxic:
    return Toxic(answer["name"], answer["type"], answer["stream"], answer["attributes"])
