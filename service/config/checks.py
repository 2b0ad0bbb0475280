"""Cross-field validation of settings: contradictions are errors, doubtful values are warnings.

Each problem is one sentence. Only files that the settings name are read; the network is never used.
"""

import difflib
import importlib.util
import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from dub5.service.config import templates
from dub5.service.config.addresses import address_warnings
from dub5.service.config.conversation_checks import conversation_problems, conversation_warnings
from dub5.service.config.document_checks import document_problems, document_warnings
from dub5.service.config.edge_checks import edge_problems, edge_warnings
from dub5.service.config.notify_checks import notify_problems
from dub5.service.config.options import AdmissionOptions, RedisOptions, SanitizeOptions, TimeoutOptions
from dub5.service.config.personalities import unused_personalities
from dub5.service.config.settings import OTHERS, ProviderSettings, RouteSettings, ServerSettings, Settings

TARGET_PATTERN = re.compile(r"[!#-+\--:<-~]+")  # a target is written into headers and metrics
OUR_HEADERS = ("authorization", "x-api-key", "host", "content-type", "content-length", "accept-encoding")


def contradictions(settings: Settings, providers: list[str]) -> list[str]:
    """Return one sentence for each contradiction between values.

    `providers`: all names of providers in the file, those of invalid tables included.
    """
    found = [f"provider {n!r}: the name is used twice." for n in _duplicates(providers)]
    found += [f"route {n!r}: the name is used twice." for n in _duplicates([r.name for r in settings.route])]
    found += edge_problems(settings.server)
    found += _proxy_problems(settings.server.proxy) + _redis_problems(settings.cache.redis)
    for provider in settings.provider:
        found += _url_problems(provider)
        found += [
            f"provider {provider.name!r}.overrides.headers: {name} is set by the service itself;"
            " keys come from key_env."
            for name in provider.overrides.headers
            if name.lower() in OUR_HEADERS
        ]
    for route in settings.route:
        found += _route_problems(route, providers)
    found += _spending_problems(settings)
    found += _priority_problems(settings.admission, settings.server) + _limits_problems(settings)
    found += conversation_problems(settings) + document_problems(settings) + notify_problems(settings)
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
        f"admission.priorities: {name!r} is not in server.caller_keys_env;"
        f" `{OTHERS}` means all callers without a class of their own."
        for name in admission.priorities
        if name not in known
    ]


def _limits_problems(settings: Settings) -> list[str]:
    limits, keys = settings.limits, settings.server.caller_keys_env
    found = [
        f"limits.premium: {name!r} is not in server.caller_keys_env."
        for name in limits.premium
        if name not in keys
    ]
    if limits.caller is not None and not keys:
        found.append(
            "limits.caller: needs callers with keys; name their variables in server.caller_keys_env."
        )
    if limits.session is not None and settings.session is None:
        found.append("limits.session: needs sessions; add a [session] table.")
    if limits.shared and not settings.cache.redis.used:
        found.append("limits.shared: needs a Redis; set cache.redis.url or cache.redis.url_env.")
    if limits.block_s > limits.block_max_s:
        found.append("limits.block_s: is longer than limits.block_max_s.")
    return found


def _spending_problems(settings: Settings) -> list[str]:
    targets = dict.fromkeys(target for route in settings.route for target in route.targets)
    found = []
    for provider in settings.provider:
        models = [model for name, _, model in (t.partition("/") for t in targets) if name == provider.name]
        free = [repr(model) for model in models if model not in provider.prices]
        if provider.spend_max_usd_per_day is not None and free:
            found.append(
                f"provider {provider.name!r}.spend_max_usd_per_day: what {', '.join(free)} costs is not"
                " known; add prices of each model that a route uses."
            )
    return found


def warnings(settings: Settings) -> list[str]:
    """Return one sentence for each value that is valid but hardly intended."""
    found_warnings = [text for provider in settings.provider for text in address_warnings(provider)]
    found_warnings += edge_warnings(settings.server) + conversation_warnings(settings)
    found_warnings += document_warnings(settings)
    isolated = {provider.name for provider in settings.provider if provider.isolated}
    for route in settings.route:
        if {target.partition("/")[0] for target in route.targets} <= isolated:
            found_warnings.append(
                f"route {route.name!r}: all its providers are isolated, so no request can be answered."
            )
        found_warnings += _cache_warnings(route) + _degraded_warnings(route)
        if not route.sanitize.enabled and route.sanitize != SanitizeOptions():
            found_warnings.append(
                f"route {route.name!r}: sanitize: has no effect, as sanitize.enabled is false."
            )
    found_warnings += [
        f"personality {name!r}: no route lists it in personalities."
        for name in unused_personalities(settings)
    ]
    known = {target for route in settings.route for target in route.targets}
    return found_warnings + [
        f"provider {provider.name!r}.{table}: no route has a target with the model {model!r}."
        for provider in settings.provider
        for table in ("prices", "context_tokens", "output_tokens")
        for model in getattr(provider, table)
        if f"{provider.name}/{model}" not in known
    ]


def _cache_warnings(route: RouteSettings) -> list[str]:
    where, cache = f"route {route.name!r}: cache", route.cache
    if not cache.enabled:
        named = [
            name
            for name in ("stale_while_revalidate_s", "stale_if_error_s", "warm_from")
            if getattr(cache, name)
        ]
        return [f"{where}.{name}: has no effect, as cache.enabled is false." for name in named]
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
        found.append("cache.redis: url and url_env are both set; keep one.")
    if redis.url is not None:
        found += [f"cache.redis.url: {problem}" for problem in redis_url_problems(redis.url)]
        if "@" in redis.url:
            found.append(
                "cache.redis.url: must hold no user or password; name a variable in cache.redis.url_env."
            )
    return found


def redis_url_problems(url: str) -> list[str]:
    """Return what is wrong with an address of a Redis, without the address: it may hold a password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return ["is not an address."]
    database = parts.path.strip("/")
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query or parts.fragment:
        return [
            (
                "must be written redis://host:port, or rediss:// for TLS,"
                " with at most a database number after it."
            )
        ]
    if not ((database.isascii() and database.isdecimal()) or database == ""):
        return ["the database after the slash must be a number."]
    return []


def _proxy_problems(proxy: str | None) -> list[str]:
    """Return what is wrong with the proxy, without its address: it may hold a password."""
    if proxy is None:
        return []
    try:
        parts = urlsplit(proxy)
        _ = parts.port
    except ValueError:
        return ["server.proxy: is not an address."]
    if parts.username is not None or parts.password is not None:
        return ["server.proxy: must hold no user or password; a proxy that requires them is not supported."]
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


def _degraded_warnings(route: RouteSettings) -> list[str]:
    where, degraded, timeouts = f"route {route.name!r}: degraded", route.degraded, route.timeouts
    within_s, which = degraded.answer_within_s, "hedge_after_s"
    if timeouts.first_token_s < timeouts.hedge_after_s:
        which = "first_token_s"
    if not degraded.enabled:
        named = [name for name in ("answer_within_s", "templates") if getattr(degraded, name) is not None]
        return [f"{where}.{name}: has no effect, as degraded.enabled is false." for name in named]
    found_warnings: list[str] = []
    if degraded.templates is not None and (names := templates.unused(Path(degraded.templates))):
        what = ", ".join(names)
        found_warnings.append(
            f"{where}.templates: {what}: not used any more, requests are not sorted by topic; use 'general'."
        )
    if within_s is not None and within_s <= getattr(timeouts, which):
        found_warnings.append(
            f"{where}.answer_within_s: is not longer than timeouts.{which}:"
            " a target that stalls never counts as failed, and no other target is tried."
        )
    return found_warnings


def _route_problems(route: RouteSettings, providers: list[str]) -> list[str]:
    found = [f"route {route.name!r}: target {t!r} is listed twice." for t in _duplicates(list(route.targets))]
    for target in route.targets:
        provider, slash, model = target.partition("/")
        if not slash or not model or not TARGET_PATTERN.fullmatch(target):
            found.append(
                f"route {route.name!r}: target {target!r} must be written provider/model,"
                " without spaces, commas or quotes."
            )
        elif provider not in providers:
            near = difflib.get_close_matches(provider, providers, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"configured: {', '.join(providers)}."
            found.append(f"route {route.name!r}: target {target!r} names no configured provider; {hint}")
    for pattern in route.reject_patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            found.append(
                f"route {route.name!r}: reject_patterns: {pattern!r} is not a regular expression: {error}."
            )
    if route.degraded.templates is not None:
        _, problems = templates.read(Path(route.degraded.templates))
        found += [f"route {route.name!r}: degraded.templates: {problem}" for problem in problems]
    first_s = route.timeouts.first_token_s
    if first_s > route.timeouts.total_s and first_s != TimeoutOptions().first_token_s:
        found.append(f"route {route.name!r}: timeouts.first_token_s is longer than timeouts.total_s.")
    return found


def exposure_problems(settings: Settings, behind_a_server: bool) -> list[str]:
    """Return why strangers must not reach this service. On loopback none can, without a server before it."""
    host = settings.server.host
    if _bounds_strangers(settings) or (_is_loopback(host) and not behind_a_server):
        return []
    bounds = "name variables with keys in server.caller_keys_env, or add [session] and limits.ip"
    if behind_a_server:
        return [f"Another server makes this application reachable, and no caller keys are set: {bounds}."]
    how = f"{bounds}; or listen on 127.0.0.1, or start with --insecure"
    return [f"server.host {host!r} is reachable from outside, and no caller keys are set: {how}."]


def _bounds_strangers(settings: Settings) -> bool:
    """Return whether something keeps a stranger from spending without bounds.

    Caller keys do; or sessions, which have a limit each, with a limit of each address.
    """
    if settings.server.caller_keys_env:
        return True
    return settings.session is not None and settings.limits.ip is not None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _duplicates(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
