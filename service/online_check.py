"""`dub5 check --online`: asks each target once, with a few tokens, and says in words what is wrong.

The hook of incidents gets a test message.

    target -> one request -> first content: well | failure --explain--> a sentence for the operator

Nothing of the request path is used but dialects and the wire: no failover, no breaker, no retry.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random
from urllib.parse import urlsplit

from msgspec import Struct

from dub5.service import clock
from dub5.service.config.settings import LoadedSettings, NotifyHook, ProviderSettings
from dub5.service.failover.body import ResponseBody
from dub5.service.failover.prober import CHAT, CHAT_FIELDS, VECTOR, VECTOR_FIELDS
from dub5.service.model import AnyRequest, Caller, ChatRequest, EmbedRequest
from dub5.service.optional_parts import load_part
from dub5.service.providers.base import Dialect, ProviderFault, Unsupported, decode_reply, encode_request
from dub5.service.providers.registry import dialect_of
from dub5.service.telemetry.outgoing import Outgoing
from dub5.service.terminal import printable
from dub5.service.wire.base import FailureKind, Stage, Wire, WireFailure, WireRequest

AT_ONCE = 8
LIMIT_S = 30.0  # of one target: thinking models take their time
ANSWER_BYTES_MAX = 4 * 1024 * 1024
KEYLESS = "no key is sent: name the variable that holds it in key_env"


class Finding(Struct, frozen=True):
    """What came of asking one target. `problem`: empty if it answered."""

    target: str
    took_s: float
    problem: str = ""


async def ask_targets(loaded: LoadedSettings, wire: Wire, limit_s: float = LIMIT_S) -> AsyncIterator[Finding]:
    """Ask each target of the settings once, a few at a time. Yield the findings as they come."""
    turns = asyncio.Semaphore(AT_ONCE)
    asked = [
        asyncio.create_task(_ask_in_turn(loaded, name, wire, limit_s, turns)) for name in targets(loaded)
    ]
    try:
        for finding in asyncio.as_completed(asked):
            yield await finding
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def ask_hook(hook: NotifyHook, wire: Wire) -> str:
    """Send a test message to the hook of incidents. Return why it has not taken it; empty if it has."""
    outgoing = Outgoing("hook", wire, lambda event: None, Random(), tries=1)
    problem: str = await load_part("notifier")(hook, outgoing, Random()).probe()
    return problem


def targets(loaded: LoadedSettings) -> Sequence[str]:
    """Return the targets of all routes, each once."""
    return list(dict.fromkeys(name for route in loaded.settings.route for name in route.targets))


async def _ask_in_turn(
    loaded: LoadedSettings, name: str, wire: Wire, limit_s: float, turns: asyncio.Semaphore
) -> Finding:
    provider_name, _, model = name.partition("/")
    provider = next(one for one in loaded.settings.provider if one.name == provider_name)
    keys = loaded.provider_keys.get(provider_name, ())
    async with turns:
        began_s = clock.now()
        try:
            async with asyncio.timeout(limit_s):
                await _ask(provider, model, keys[0].reveal() if keys else None, wire, loaded)
            problem = ""
        except TimeoutError:
            problem = f"no answer within {limit_s:g} s"
        except (WireFailure, ProviderFault, Unsupported) as error:
            problem = explain(error, provider, model, has_key=bool(keys))
        return Finding(name, clock.now() - began_s, problem)


async def _ask(
    provider: ProviderSettings, model: str, key: str | None, wire: Wire, loaded: LoadedSettings
) -> None:
    """Ask for an answer, and wait for its first content. Raises WireFailure, ProviderFault, Unsupported."""
    dialect = dialect_of(provider, loaded.settings.server.event_bytes_max)
    request: AnyRequest = ChatRequest("check", Caller("check"), CHAT, CHAT_FIELDS, cache_allowed=False)
    if "embed" in model:
        request = EmbedRequest("check", Caller("check"), VECTOR, VECTOR_FIELDS)
    call = encode_request(dialect, request, model, key)
    url = provider.base_url.rstrip("/") + call.path
    response = await wire.send(WireRequest("POST", url, call.headers, call.body, fresh=True))
    try:
        body = ResponseBody(response)
        if response.status != 200:
            raise dialect.fault(response.status, response.headers, await body.beginning())
        if response.headers.get("content-type", "").startswith("text/html"):
            raise ProviderFault("not_a_stream")
        await _read_content(dialect, request, model, body)
    finally:
        await response.aclose()


async def _read_content(dialect: Dialect, request: AnyRequest, model: str, body: ResponseBody) -> None:
    if isinstance(request, EmbedRequest):
        decode_reply(dialect, request, await body.whole(ANSWER_BYTES_MAX))
        return
    reader = dialect.stream(request, model)
    while data := await body.read():
        chunks = reader.feed(data)
        if reader.fault is not None:
            raise reader.fault
        if any(chunk.has_content or chunk.finish_reason for chunk in chunks):
            return
    raise ProviderFault("empty_answer")


def explain(
    error: WireFailure | ProviderFault | Unsupported, provider: ProviderSettings, model: str, *, has_key: bool
) -> str:
    """Return what is wrong, in words, and where to mend it."""
    if isinstance(error, WireFailure):
        return _explain_wire(error, urlsplit(provider.base_url).hostname or "")
    if isinstance(error, Unsupported):
        return f"this provider cannot be asked: {error.param}"
    return _explain_fault(error, provider, model, has_key)


def _explain_wire(failure: WireFailure, host: str) -> str:
    match failure.stage, failure.kind:
        case Stage.RESOLVE, FailureKind.REFUSED:
            return f"the name {host!r} does not resolve: is it misspelt in base_url?"
        case Stage.CONNECT, FailureKind.REFUSED:
            return f"{host} refuses connections: are address and port in base_url right, is it running?"
        case Stage.RESOLVE | Stage.CONNECT, FailureKind.TIMEOUT:
            return f"no connection to {host} in time: does a firewall or a proxy stand between?"
        case Stage.CONNECT, FailureKind.PROTOCOL:
            return f"no TLS with {host}: {failure}"
    return f"the connection to {host} broke: {failure}"


def _explain_fault(fault: ProviderFault, provider: ProviderSettings, model: str, has_key: bool) -> str:
    variable = provider.key_env[0] if provider.key_env else ""
    match fault.status:
        case 401 | 403 if has_key:
            return f"HTTP {fault.status}: the key in {variable} is refused"
        case 401 | 403:
            return f"HTTP {fault.status}: {KEYLESS}"
        case 402:
            return f"HTTP 402: the account of the key in {variable or 'key_env'} has no credit"
        case 404 | 405:
            return (
                f"HTTP {fault.status}: either there is no model {model!r},"
                f" or base_url is wrong ({provider.base_url}{_hint(provider)}){_said(fault)}"
            )
        case 429:
            return f"HTTP 429: limited, or its quota is used up; address and key are right{_said(fault)}"
        case None:
            if fault.reason in ("not_a_stream", "invalid_json"):
                return f"answers with something else than this API: is base_url right ({provider.base_url})?"
            return f"its answer cannot be used ({fault.reason}){_said(fault)}"
        case status if status >= 500:
            return f"HTTP {status}: it fails at the moment, which no setting mends{_said(fault)}"
    return f"HTTP {fault.status}: the request is refused{_said(fault)}"


def _hint(provider: ProviderSettings) -> str:
    lacks_v1 = provider.dialect != "anthropic" and "/v1" not in provider.base_url
    return ": does it lack /v1?" if lacks_v1 else ""


def _said(fault: ProviderFault) -> str:
    return f"; it says: {printable(fault.message)}" if fault.message else ""
