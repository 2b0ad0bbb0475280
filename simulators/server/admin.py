"""The admin API: faults, limits, capacity, revoked keys and ledger. It needs the token printed at the start.

    GET    /faults                            active faults of all providers
    GET    /faults/{provider}                 active faults of one provider
    PUT    /faults/{provider}                 a fault: replaces that of its kind; a list: replaces all
    DELETE /faults/{provider}[?kind=stall]    clears all faults, or those of one kind
    GET    /limits, /limits/{provider}        rate limits, and the state of their buckets
    PUT    /limits/{provider}                 replaces all limits
    DELETE /limits/{provider}                 restores the limits of the start
    ...    /capacity                          the same for the capacity
    ...    /revoked                           the same for the keys that are accepted no more: a list
    GET    /ledger[?provider=one&since=N&limit=M]   lines with numbers above N, oldest first

The Host must be a loopback name, and calls of web pages from another origin are refused (DNS rebinding,
CSRF).
"""

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.faults.base import described
from dub5.simulators.ledger import Ledger
from dub5.simulators.limits.concurrency import Capacity
from dub5.simulators.limits.rate import Limits
from dub5.simulators.personas.base import JSON, FixedResponse
from dub5.simulators.provider import SimulatedProvider
from dub5.simulators.script import Script, SimRequest

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
LINES_PER_PAGE = 10_000
T = TypeVar("T", Limits, Capacity)


class AdminCallError(Exception):
    """A rejected call, with its HTTP status and message."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class AdminApi:
    """The admin API as a function from request to script; give it to `sockets.serve`."""

    providers: Mapping[str, SimulatedProvider]
    ledger: Ledger
    token: str

    def __call__(self, request: SimRequest) -> Script:
        try:
            self._check(request)
            return _json_response(200, self._route(request)).script()
        except AdminCallError as refused:
            return _json_response(refused.status, {"error": str(refused)}, **refused.headers).script()

    def _check(self, request: SimRequest) -> None:
        host = request.headers.get("host", "")
        if _name_of(f"//{host}") not in LOOPBACK:
            raise AdminCallError(403, f"the Host must be a loopback name, not `{host}`")
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            raise AdminCallError(403, f"calls from pages of `{origin}` are refused")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self.token.encode()):
            message = "send the token printed at the start, as the header Authorization: Bearer TOKEN"
            raise AdminCallError(401, message, **{"www-authenticate": "Bearer"})

    def _route(self, request: SimRequest) -> object:
        query = {name: values[-1] for name, values in parse_qs(request.query).items()}
        match request.path.strip("/").split("/"):
            case ["faults" | "limits" | "capacity" | "revoked" as what]:
                _need(request, "GET")
                return {name: READ[what](provider) for name, provider in self.providers.items()}
            case ["faults" | "limits" | "capacity" | "revoked" as what, name]:
                _need(request, "GET", "PUT", "DELETE")
                provider = self._provider(unquote(name))
                if request.method == "PUT":
                    _put(what, provider, _json(request.body))
                elif request.method == "DELETE":
                    _delete(what, provider, query.get("kind"))
                return {"provider": provider.profile.name, what: READ[what](provider)}
            case ["ledger"]:
                _need(request, "GET")
                return self._lines(query)
        raise AdminCallError(
            404,
            "valid calls: GET, PUT and DELETE of /faults, /limits, /capacity and /revoked, and GET /ledger",
        )

    def _provider(self, name: str) -> SimulatedProvider:
        if name not in self.providers:
            raise AdminCallError(404, f"no provider `{name}`; providers: {', '.join(self.providers)}")
        return self.providers[name]

    def _lines(self, query: Mapping[str, str]) -> object:
        name = query.get("provider")
        if name is not None:
            self._provider(name)
        lines = self.ledger.lines(since=_number(query, "since", 0), provider=name)
        limit = _number(query, "limit", LINES_PER_PAGE)
        more = len(lines) > limit
        last = lines[limit - 1].n if more and limit else self.ledger.last
        return {"lines": lines[:limit], "last": last, "more": more, "open": self.ledger.open}


def _faults_of(provider: SimulatedProvider) -> list[dict[str, Any]]:
    return [{**described(f.fault), "seen": f.seen, "applied": f.applied} for f in provider.faults]


def _limits_of(provider: SimulatedProvider) -> dict[str, Any]:
    limits = msgspec.to_builtins(provider.limits)
    buckets = msgspec.to_builtins(provider.bucket_states())
    return {**{name: value for name, value in limits.items() if value is not None}, "buckets": buckets}


def _capacity_of(provider: SimulatedProvider) -> dict[str, Any]:
    return {**msgspec.to_builtins(provider.slot_queue.capacity), **provider.slot_queue.snapshot()}


def _revoked_of(provider: SimulatedProvider) -> list[str]:
    return sorted(provider.profile.revoked)


READ: Mapping[str, Callable[[SimulatedProvider], object]] = {
    "faults": _faults_of,
    "limits": _limits_of,
    "capacity": _capacity_of,
    "revoked": _revoked_of,
}


def _put(what: str, provider: SimulatedProvider, value: object) -> None:
    try:
        match what:
            case "limits":
                provider.set_limits(_read(value, Limits))
            case "capacity":
                provider.set_capacity(_read(value, Capacity))
            case "revoked":
                provider.set_revoked(_keys(value))
            case _ if isinstance(value, list):
                provider.set_faults([parse_fault(fault) for fault in value])
            case _:
                provider.set_fault(parse_fault(value))
    except ValueError as error:  # also BadFault
        raise AdminCallError(400, str(error)) from None


def _delete(what: str, provider: SimulatedProvider, kind: str | None) -> None:
    match what:
        case "limits":
            provider.set_limits()
        case "capacity":
            provider.set_capacity()
        case "revoked":
            provider.set_revoked(())
        case _:
            provider.clear_faults(kind)


def _read(value: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise AdminCallError(400, f"{error}. Valid fields: {', '.join(kind.__struct_fields__)}") from None


def _keys(value: object) -> list[str]:
    try:
        return msgspec.convert(value, list[str])
    except msgspec.ValidationError:
        raise AdminCallError(400, 'a list of keys is needed, for example ["sk-test"]') from None


def _json(body: bytes) -> object:
    try:
        value: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AdminCallError(400, f"the body is not valid JSON: {error}") from None
    return value


def _json_response(status: int, body: object, **headers: str) -> FixedResponse:
    headers = {"content-type": JSON, "cache-control": "no-store", **headers}
    return FixedResponse(status, headers, msgspec.json.encode(body) + b"\n")


def _need(request: SimRequest, *methods: str) -> None:
    if request.method not in methods:
        allowed = ", ".join(methods)
        raise AdminCallError(405, f"{request.path} allows {allowed}, not {request.method}", allow=allowed)


def _name_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    value = query.get(name, str(default))
    if not value.isascii() or not value.isdecimal() or len(value) > 15:
        raise AdminCallError(400, f"{name} must be a whole number from 0 up, not `{value}`")
    return int(value)
