"""A Toxiproxy server, by types: a thin wrapper around toxiproxy-python, which has no timeouts, no update, no types, and
takes an error page for an answer.

    with server.proxy("one", upstream) as proxy:                 deleted at the end, whatever happened
        with proxy.toxic("latency", {"latency": 300}): ...       lifted the safe way

Lifting a latency whose clients have left freezes the whole server 2.12, and so does POST /reset. So there is no reset
here; a latency is set to 0 and left to drain before it is lifted; and if the server still freezes, its proxy is
deleted, which thaws it, and made anew on the same port. Calls block: use a thread.
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

TIMEOUT_S = 5.0  # of every call: a frozen server must not freeze us
DIRECT = {"http": "", "https": ""}  # no proxy of the environment stands between us and 127.0.0.1
DRAIN_S = 0.1  # what was held back by a latency leaves
SAFE_TO_LIFT: Mapping[str, Mapping[str, int]] = {"latency": {"latency": 0, "jitter": 0}}


class ToxiproxyError(Exception):
    """The server refused a call, or did not answer; the message says what it said."""


class Conflict(ToxiproxyError):
    """A name is taken."""


class NoAnswer(ToxiproxyError):
    """Nothing came in time: the server is gone, or frozen."""


class NoSuch(ToxiproxyError):
    """No proxy or toxic of this name."""


class _Api:
    """One server's API. toxiproxy-python keeps the address in a class: each server has a class of its own."""

    def __init__(self, host: str, port: int) -> None:
        self._consumer: Any = type("Consumer", (APIConsumer,), {"host": host, "port": port})
        self._base = f"http://{host}:{port}"

    def get(self, path: str) -> Any:
        return self._said(lambda: self._consumer.get(path, timeout=TIMEOUT_S, proxies=DIRECT))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._said(lambda: self._consumer.post(path, json=body, timeout=TIMEOUT_S, proxies=DIRECT))

    def delete(self, path: str) -> None:
        self._said(lambda: self._consumer.delete(path, timeout=TIMEOUT_S, proxies=DIRECT))

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Updates; toxiproxy-python knows only the deprecated POST."""
        url = self._base + path
        return self._said(
            lambda: validate_response(requests.patch(url, json=body, timeout=TIMEOUT_S, proxies=DIRECT))
        )

    def _said(self, call: Any) -> Any:
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
    """The sentence inside the server's error page, which toxiproxy-python passes on as bytes."""
    said = error.args[0] if error.args else b""
    try:
        return str(json.loads(said)["error"])
    except (ValueError, KeyError, TypeError):
        return str(said)


@dataclass(frozen=True, slots=True)
class Toxic:
    """A toxic as the server has it."""

    name: str
    kind: str
    stream: str
    attributes: Mapping[str, int]


class Proxy:
    """One proxied connection. `listen` is host:port, the port a real one."""

    def __init__(self, api: _Api, said: Mapping[str, Any]) -> None:
        self.name = str(said["name"])
        self.listen = str(said["listen"])
        self.upstream = str(said["upstream"])
        self._api = api
        self._path = f"/proxies/{self.name}"

    def add(self, kind: str, attributes: Mapping[str, int], stream: str = "downstream") -> Toxic:
        """Adds a toxic for every connection (chance is drawn elsewhere: the server's own seed does nothing)."""
        body = {"name": f"{kind}_{stream}", "type": kind, "stream": stream, "toxicity": 1.0}
        return _toxic(self._api.post(f"{self._path}/toxics", {**body, "attributes": dict(attributes)}))

    def update(self, toxic: Toxic, attributes: Mapping[str, int]) -> Toxic:
        """Changes the numbers of a toxic."""
        return _toxic(self._api.patch(f"{self._path}/toxics/{toxic.name}", {"attributes": dict(attributes)}))

    def lift(self, toxic: Toxic) -> None:
        """Removes a toxic. If the server freezes over it, every connection of this proxy ends, and all its toxics."""
        try:
            if toxic.kind in SAFE_TO_LIFT:
                self.update(toxic, SAFE_TO_LIFT[toxic.kind])
                time.sleep(DRAIN_S)
            self._api.delete(f"{self._path}/toxics/{toxic.name}")
        except NoAnswer:
            self.thaw()

    def thaw(self) -> None:
        """The same proxy anew, without toxics: deleting it is what a frozen server still does."""
        self.delete()
        self._api.post("/proxies", {"name": self.name, "upstream": self.upstream, "listen": self.listen})

    def toxics(self) -> list[Toxic]:
        """What is set now."""
        return [_toxic(said) for said in self._api.get(f"{self._path}/toxics")]

    def disable(self) -> None:
        """The port refuses, open connections end."""
        self._api.patch(self._path, {"enabled": False})

    def enable(self) -> None:
        """The port listens again."""
        self._api.patch(self._path, {"enabled": True})

    def delete(self) -> None:
        """It is gone; this also thaws a frozen server."""
        self._api.delete(self._path)

    @contextmanager
    def toxic(self, kind: str, attributes: Mapping[str, int], stream: str = "downstream") -> Iterator[Toxic]:
        """A toxic for the length of a block."""
        added = self.add(kind, attributes, stream)
        try:
            yield added
        finally:
            self.lift(added)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Disabled for the length of a block."""
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
        """What it calls itself; a server that `go install` built says `git`."""
        return str(self._api.get("/version")["version"])

    def create(self, name: str, upstream: str, listen: str = "127.0.0.1:0") -> Proxy:
        """A new proxy; port 0 is any free one. Raises Conflict if the name is taken, ToxiproxyError for the port."""
        body = {"name": name, "upstream": upstream, "listen": listen, "enabled": True}
        return Proxy(self._api, self._api.post("/proxies", body))

    def proxies(self) -> dict[str, Proxy]:
        """All of them, by name."""
        return {name: Proxy(self._api, said) for name, said in self._api.get("/proxies").items()}

    @contextmanager
    def proxy(self, name: str, upstream: str) -> Iterator[Proxy]:
        """A proxy for the length of a block."""
        made = self.create(name, upstream)
        try:
            yield made
        finally:
            made.delete()


def _toxic(said: Mapping[str, Any]) -> Toxic:
    return Toxic(said["name"], said["type"], said["stream"], said["attributes"])
