"""Everything that can be set, read at the edge: a TOML file, then the environment over it.

`load` returns frozen settings or raises `SettingsProblems`, which lists everything that is wrong at once, in words.
A reload calls it again, with those of the `running` service: what cannot change while it runs stays as it is there.
The only file that reads the environment.
"""

import difflib
import importlib.util
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from service import templates, words
from service.chat import Price
from service.keys import Keys, text_of
from service.options import (
    AdmissionOptions,
    BreakerOptions,
    BudgetOptions,
    CacheBounds,
    CacheOptions,
    Clocks,
    Count,
    DegradedOptions,
    HealthOptions,
    HedgeOptions,
    LimiterOptions,
    Pause,
    ProbeOptions,
    RedisOptions,
    RetryOptions,
    Seconds,
)

ENV_PREFIX = "DUB5__"  # DUB5__SERVER__PORT=9000 sets [server] port

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Variable = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+$", max_length=64)]
HeaderText = Annotated[str, Meta(pattern=r"^[ -~]*$", max_length=1024)]
RouteName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)]

BOUND_AT_START = ("host", "port", "wire", "proxy", "connections_per_origin_max")  # of [server]
TOKEN_CHARS_MIN = 16
OTHERS = "others"  # of admission.priorities: every caller that is not named
TARGET_OK = re.compile(r"[!#-+\--:<-~]+")  # it stands in headers and metrics
OUR_HEADERS = ("authorization", "x-api-key", "host", "content-type", "content-length", "accept-encoding")
DialectName = Literal["openai", "mistral", "anthropic"]
WireName = Literal["aiohttp", "httpx"]
DeliveryName = Literal["live", "whole"]
PolicyName = Literal["ordered", "balanced"]


class ServerSettings(Struct, frozen=True):
    """Where the service listens, and its bounds."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    wire: WireName = "aiohttp"
    proxy: str | None = None
    caller_keys_env: tuple[Variable, ...] = ()
    in_flight_max: Count = 10_000
    client_stall_s: Seconds = 30.0
    connections_per_origin_max: Count = 1_000
    request_bytes_max: Count = 25 * 1024 * 1024
    answer_bytes_max: Count = 32 * 1024 * 1024
    event_bytes_max: Count = 8 * 1024 * 1024
    headers_max: Count = 100
    json_depth_max: Count = 64
    announce_s: Pause = 0.0
    drain_s: Pause = 25.0


class Differences(Struct, frozen=True):
    """What a provider does otherwise than its dialect. Names are those of the request's fields; `messages.name` in
    `drops` is a field of every message."""

    headers: Mapping[HeaderName, HeaderText] = {}  # sent with each request, as they are; never keys
    renames: Mapping[str, str] = {}  # it knows the field under another name
    drops: tuple[str, ...] = ()  # it refuses the field: left out, and named in the trail
    refuses: tuple[str, ...] = ()  # it cannot do that: another target is asked
    developer_role: bool = True  # false: developer turns go to it as system turns


AS_THE_DIALECT = Differences()


class ProviderSettings(Struct, frozen=True):
    """One provider: how it speaks and where. `key_env` names the environment variables that hold its keys."""

    name: Name
    dialect: DialectName
    base_url: str
    key_env: tuple[Variable, ...] = ()
    api_version: str | None = None
    max_tokens: Count = 4096  # where the dialect wants a limit and the caller set none
    differs: Differences = AS_THE_DIALECT
    isolated: bool = False  # by hand: nobody is sent there
    prices: Mapping[str, Price] = {}  # of its models, in US dollars per million tokens
    context_tokens: Mapping[str, Count] = {}  # of its models: a longer conversation goes to another target


class RouteSettings(Struct, frozen=True):
    """One model name that clients may ask for, and the targets behind it in order of preference."""

    name: RouteName
    targets: Annotated[tuple[str, ...], Meta(min_length=1)]
    policy: PolicyName = "ordered"
    delivery: DeliveryName = "live"
    clocks: Clocks = Clocks()
    cache: CacheOptions = CacheOptions()
    degraded: DegradedOptions = DegradedOptions()
    notices: tuple[str, ...] = ()


class AdminSettings(Struct, frozen=True):
    """Who may give orders to the running service. Without `token_env` it makes a token, and shows it at the start."""

    token_env: Variable | None = None


class Settings(Struct, frozen=True):
    """The whole of it. `keys` and `caller_keys` are filled from the environment and never shown."""

    provider: tuple[ProviderSettings, ...]
    route: tuple[RouteSettings, ...]
    server: ServerSettings = ServerSettings()
    breaker: BreakerOptions = BreakerOptions()
    retry: RetryOptions = RetryOptions()
    budget: BudgetOptions = BudgetOptions()
    limiter: LimiterOptions = LimiterOptions()
    health: HealthOptions = HealthOptions()
    probe: ProbeOptions = ProbeOptions()
    admission: AdmissionOptions = AdmissionOptions()
    hedge: HedgeOptions = HedgeOptions()
    cache: CacheBounds = CacheBounds()
    admin: AdminSettings = AdminSettings()


class Secret:
    """A key that cannot be printed by accident."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the one header it belongs into."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


class Loaded(Struct, frozen=True):
    """Settings, and the secrets they name. `remarks`: what is worth saying of settings that can be used."""

    settings: Settings
    provider_keys: Mapping[str, tuple[Secret, ...]]
    caller_keys: tuple[Secret, ...]
    remarks: tuple[str, ...] = ()
    redis_url: Secret | None = None  # with its password
    admin_token: Secret | None = None


class SettingsProblems(Exception):
    """What must be changed before the service can start, one plain sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(
    path: Path | None,
    environ: Mapping[str, str] = os.environ,
    *,
    host: str | None = None,
    port: int | None = None,
    insecure: bool = False,
    running: Settings | None = None,
) -> Loaded:
    """Reads the file, lays the environment and then `host` and `port` over it, and checks all of it. `running`: the
    settings that a service was started with.

    Raises SettingsProblems.
    """
    problems: list[str] = []
    again = running is not None
    data = _file(path, again, problems)
    if problems:
        raise SettingsProblems(problems)
    _overlay(data, environ)
    if isinstance(server := data.setdefault("server", {}), dict):
        server |= {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = _read(Settings, data, "", problems)
    if not isinstance(settings, Settings):
        raise SettingsProblems(problems)
    problems += _contradictions(settings, _names(data.get("provider")))
    kept, waiting = _kept(settings, running)
    problems += _exposure(settings.server, insecure) or _exposure(kept.server, insecure)
    keys = Keys(environ, again, problems)
    loaded = Loaded(
        kept,
        {p.name: _secrets(keys.read(f"provider {p.name!r}.key_env", p.key_env)) for p in kept.provider},
        _secrets(keys.read("server.caller_keys_env", kept.server.caller_keys_env)),
        (*waiting, *_remarks(kept)),
        _redis_url(kept.cache.redis, keys, problems),
        _admin_token(kept.admin, keys, problems),
    )
    if problems:
        raise SettingsProblems(problems)
    return loaded


def _kept(settings: Settings, running: Settings | None) -> tuple[Settings, list[str]]:
    """The settings with what was bound at the start as it is; a sentence for each value that has to wait."""
    if running is None:
        return settings, []
    old = {name: getattr(running.server, name) for name in BOUND_AT_START}
    waiting = [name for name in BOUND_AT_START if getattr(settings.server, name) != old[name]]
    server = msgspec.structs.replace(settings.server, **old)
    told = [f"server.{name}: needs a restart; the old value stays." for name in waiting]
    if settings.cache.redis != running.cache.redis:
        told.append("cache.redis: needs a restart; the old values stay.")
    cache = msgspec.structs.replace(settings.cache, redis=running.cache.redis)
    return msgspec.structs.replace(settings, server=server, cache=cache), told


def _file(path: Path | None, again: bool, problems: list[str]) -> dict[str, Any]:
    if path is None:
        problems.append("No settings file: name one with --config FILE.")
        return {}
    try:
        return tomllib.loads(text_of(path, again))
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror}).")
    except UnicodeDecodeError:
        problems.append(f"{path}: is not UTF-8 text.")
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{path}: is not valid TOML: {error}.")
    return {}


def _overlay(data: dict[str, Any], environ: Mapping[str, str]) -> None:
    for variable, value in environ.items():
        if variable.startswith(ENV_PREFIX) and "__" in (rest := variable[len(ENV_PREFIX) :].lower()):
            table, field = rest.split("__", 1)
            section = data.setdefault(table, {})
            if isinstance(section, dict):
                section[field] = _EnvText(value)


class _EnvText(str):
    """A value from the environment: text that may stand for a number or a list."""


def _read(kind: type[Struct], data: Any, where: str, problems: list[str]) -> Any:
    """`data` as `kind`, or None; each thing that is wrong adds a sentence to `problems`."""
    if not isinstance(data, dict):
        problems.append(f"{where or 'settings'}: must be a table.")
        return None
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for unknown in data.keys() - fields.keys():
        problems.append(_unknown(where, unknown, list(fields)))
    values, whole = {}, True
    for name, field in fields.items():
        here = f"{where}.{name}" if where else name
        before = len(problems)
        value = _value(field.type, data[name], here, problems) if name in data else None
        if value is not None and len(problems) == before:
            values[name] = value
        elif field.required and name in data:
            # Half of a list of tables can still be looked at; half of a value cannot.
            whole = whole and isinstance(value, tuple)
            values[name] = value
        elif field.required:
            problems.append(_required(here))
            whole = False
    return kind(**values) if whole else None  # an optional value that is wrong: looked at as its default


def _value(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _read(kind, value, where, problems)
    inner = get_args(kind)[0] if get_origin(kind) is tuple else None
    if isinstance(inner, type) and issubclass(inner, Struct):
        if not isinstance(value, list) or not value:
            problems.append(f"{where}: write at least one [[{where}]] table.")
            return ()
        found = [_read(inner, one, _label(where, i, one), problems) for i, one in enumerate(value)]
        return tuple(one for one in found if one is not None)
    try:
        if isinstance(value, _EnvText):
            parts = (
                [p.strip() for p in value.split(",") if p.strip()]
                if get_origin(kind) is tuple
                else str(value)
            )
            return msgspec.convert(parts, kind, strict=False)
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        inside = words.where(error)
        where += inside if inside.startswith("[") or not inside else f".{inside}"
        if "key_env" in where or "keys_env" in where:  # a key written here by mistake must not be shown
            problems.append(f"{where}: must be a list of names of environment variables, not the keys.")
        elif where.endswith((".url_env", ".token_env", ".url")) or ".headers" in where:  # nor a password
            problems.append(f"{where}: {words.in_words(error)}.")
        elif get_origin(kind) is Literal:
            problems.append(f"{where}: must be one of {', '.join(get_args(kind))} (it is {value!r}).")
        else:
            problems.append(f"{where}: {words.in_words(error)} (it is {value!r}).")
        return None


def _label(where: str, index: int, data: Any) -> str:
    name = data.get("name") if isinstance(data, dict) else None
    return f"{where} {name!r}" if isinstance(name, str) else f"{where} number {index + 1}"


def _required(where: str) -> str:
    if where in ("provider", "route"):
        return f"No {where} is configured: add a [[{where}]] table."
    return f"{where}: is missing."


def _unknown(where: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if "key" in name and "key_env" in known:
        near = ["key_env"]
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}."
    return f"{where + '.' if where else ''}{name}: there is no such setting; {hint}"


def _names(tables: object) -> list[str]:
    rows = tables if isinstance(tables, list) else []
    return [str(row["name"]) for row in rows if isinstance(row, dict) and "name" in row]


def _contradictions(settings: Settings, providers: list[str]) -> list[str]:
    """What each value alone does not show. `providers`: all that the file names, also those that cannot be used."""
    found = [f"provider {n!r}: the name is used twice." for n in _twice(providers)]
    found += [f"route {n!r}: the name is used twice." for n in _twice([r.name for r in settings.route])]
    found += _proxy_problems(settings.server.proxy) + _redis_problems(settings.cache.redis)
    for provider in settings.provider:
        found += _url_problems(provider)
        found += [
            f"provider {provider.name!r}.differs.headers: {name} is set by the service itself; keys come from key_env."
            for name in provider.differs.headers
            if name.lower() in OUR_HEADERS
        ]
    for route in settings.route:
        found += _route_problems(route, providers)
    found += _priority_problems(settings.admission, settings.server)
    breaker, retry, limiter = settings.breaker, settings.retry, settings.limiter
    for longest in ("open_max_s", "host_open_max_s"):
        if breaker.open_s > getattr(breaker, longest):
            found.append(f"breaker.open_s: is longer than breaker.{longest}.")
    if retry.base_s > retry.max_s:
        found.append("retry.base_s: is longer than retry.max_s.")
    if limiter.min > limiter.max:
        found.append("limiter.min: is more than limiter.max.")
    return found


def _priority_problems(admission: AdmissionOptions, server: ServerSettings) -> list[str]:
    known = (*server.caller_keys_env, OTHERS)
    return [
        f"admission.priorities: {name!r} is not in server.caller_keys_env; `{OTHERS}` stands for all that are not named."
        for name in admission.priorities
        if name not in known
    ]


def _remarks(settings: Settings) -> list[str]:
    """What can be used, and is yet hardly meant."""
    said, isolated = [], {provider.name for provider in settings.provider if provider.isolated}
    for route in settings.route:
        if {target.partition("/")[0] for target in route.targets} <= isolated:
            said.append(f"route {route.name!r}: every provider behind it is isolated: nobody will answer.")
        if route.clocks.first_token_s > settings.breaker.probe_s:
            said.append(
                f"route {route.name!r}: clocks.first_token_s is longer than breaker.probe_s: a target that takes"
                " longer than that to answer a probe is not found to be back."
            )
        said += _cache_remarks(route) + _degraded_remarks(route)
    known = {target for route in settings.route for target in route.targets}
    return said + [
        f"provider {provider.name!r}.{table}: the model {model!r} is behind no route."
        for provider in settings.provider
        for table in ("prices", "context_tokens")
        for model in getattr(provider, table)
        if f"{provider.name}/{model}" not in known
    ]


def _cache_remarks(route: RouteSettings) -> list[str]:
    where, cache = f"route {route.name!r}: cache", route.cache
    if not cache.enabled:
        named = [
            name
            for name in ("stale_while_revalidate_s", "stale_if_error_s", "warm_from")
            if getattr(cache, name)
        ]
        return [f"{where}.{name}: does nothing, as cache.enabled is false." for name in named]
    if cache.warm_from is not None and not Path(cache.warm_from).is_file():
        return [f"{where}.warm_from: there is no file {cache.warm_from!r}."]
    return []


def _redis_problems(redis: RedisOptions) -> list[str]:
    if not redis.used:
        return []
    found = []
    if importlib.util.find_spec("redis") is None:
        found.append("cache.redis: the package redis is missing; install dub5[redis].")
    if redis.url is not None and redis.url_env is not None:
        found.append("cache.redis: url and url_env are both set; take one away.")
    if redis.url is not None:
        found += [f"cache.redis.url: {problem}" for problem in _redis_url_problems(redis.url)]
        if "@" in redis.url:
            found.append(
                "cache.redis.url: must hold no user or password; name a variable in cache.redis.url_env."
            )
    return found


def _redis_url_problems(url: str) -> list[str]:
    """Never shows the address: it may hold a password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return ["is not an address."]
    database = parts.path.strip("/")
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query or parts.fragment:
        return [
            "must be written redis://host:port, or rediss:// for TLS, with at most a database number after it."
        ]
    if not (database.isascii() and database.isdecimal() or database == ""):
        return ["the database after the slash must be a number."]
    return []


def _redis_url(redis: RedisOptions, keys: Keys, problems: list[str]) -> Secret | None:
    if redis.url_env is None:
        return None if redis.url is None else Secret(redis.url)
    where = "cache.redis.url_env"
    urls = keys.read(where, (redis.url_env,))
    for url in urls:
        problems += [f"{where}: what {redis.url_env} holds {problem}" for problem in _redis_url_problems(url)]
    return Secret(urls[0]) if urls else None


def _admin_token(admin: AdminSettings, keys: Keys, problems: list[str]) -> Secret | None:
    if admin.token_env is None:
        return None
    tokens = keys.read("admin.token_env", (admin.token_env,))
    if tokens and len(tokens[0]) < TOKEN_CHARS_MIN:
        problems.append(
            f"admin.token_env: what {admin.token_env} holds must have {TOKEN_CHARS_MIN} characters or more."
        )
    return Secret(tokens[0]) if tokens else None


def _proxy_problems(proxy: str | None) -> list[str]:
    """Never shows the address: it may hold a password that does not belong there."""
    if proxy is None:
        return []
    try:
        parts = urlsplit(proxy)
        _ = parts.port
    except ValueError:
        return ["server.proxy: is not an address."]
    if parts.username is not None or parts.password is not None:
        return ["server.proxy: must hold no user or password; a proxy that asks for them cannot be used."]
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        return ["server.proxy: must be written http://host:port, with nothing after it."]
    return []


def _url_problems(provider: ProviderSettings) -> list[str]:
    where = f"provider {provider.name!r}.base_url"
    try:
        parts = urlsplit(provider.base_url)
        _ = parts.port
    except ValueError as error:
        return [f"{where}: is not an address: {error}."]
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return [f"{where}: must begin with http:// or https:// and name a host."]
    if parts.username or parts.password or parts.query or parts.fragment:
        return [f"{where}: must hold no user, password, query or fragment; keys come from key_env."]
    return []


def _degraded_remarks(route: RouteSettings) -> list[str]:
    where, degraded, first_s = f"route {route.name!r}: degraded", route.degraded, route.clocks.first_token_s
    within_s = degraded.answer_within_s
    if not degraded.enabled:
        named = [name for name in ("answer_within_s", "templates") if getattr(degraded, name) is not None]
        return [f"{where}.{name}: does nothing, as degraded.enabled is false." for name in named]
    if within_s is not None and within_s <= first_s:
        return [
            (
                f"{where}.answer_within_s: is not longer than clocks.first_token_s: a target that stalls is never found"
                " to be failing, and nobody else is asked in its place."
            )
        ]
    return []


def _route_problems(route: RouteSettings, providers: list[str]) -> list[str]:
    found = [f"route {route.name!r}: target {t!r} is listed twice." for t in _twice(list(route.targets))]
    for target in route.targets:
        provider, slash, model = target.partition("/")
        if not slash or not model or not TARGET_OK.fullmatch(target):
            found.append(
                f"route {route.name!r}: target {target!r} must be written provider/model, without spaces, commas or quotes."
            )
        elif provider not in providers:
            near = difflib.get_close_matches(provider, providers, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"configured: {', '.join(providers)}."
            found.append(f"route {route.name!r}: target {target!r} names no configured provider; {hint}")
    for pattern in route.notices:
        try:
            re.compile(pattern)
        except re.error as error:
            found.append(f"route {route.name!r}: notices: {pattern!r} is not a regular expression: {error}.")
    if route.degraded.templates is not None:
        _, problems = templates.read(Path(route.degraded.templates))
        found += [f"route {route.name!r}: degraded.templates: {problem}" for problem in problems]
    if route.clocks.first_token_s > route.clocks.total_s:
        found.append(f"route {route.name!r}: clocks.first_token_s is longer than clocks.total_s.")
    return found


def _exposure(server: ServerSettings, insecure: bool) -> list[str]:
    host = server.host
    if server.caller_keys_env or insecure or _is_loopback(host):
        return []
    how = "name variables that hold keys in server.caller_keys_env, listen on 127.0.0.1, or start with --insecure"
    return [f"server.host {host!r} is reachable from outside, and no caller keys are set: {how}."]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secrets(keys: tuple[str, ...]) -> tuple[Secret, ...]:
    return tuple(map(Secret, keys))


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
