"""Six simulated providers that the dashboard must distinguish.

up      healthy
down    HTTP 530
torn    closes the connection in the middle of an answer
flaky   fails two times of five, so that its retry budget is exhausted
slow    reaches its concurrency limit
keyed   wants a key, says what is left of its limits, and has a daily budget that a few answers spend
"""

import json
from collections.abc import Mapping
from itertools import cycle

from dub5.simulators.script import Close, Data, End, Head, Respond, Script, SimRequest, Wait

EVENT_STREAM = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
FIRST_TOKEN_S = 0.02
SLOW_S = 0.5


def answers(request: SimRequest) -> Script:
    """Answer like a healthy provider."""
    if json.loads(request.body).get("stream"):
        yield Head(200, EVENT_STREAM)
        for delta in ({"role": "assistant", "content": "so"}, {"content": " be it"}):
            yield Wait(FIRST_TOKEN_S)
            yield Data(event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))
        yield Data(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        yield Data(event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")
    else:
        yield Head(200, JSON)
        message = {"role": "assistant", "content": "so be it"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        yield Data(json.dumps({"id": "c", "object": "chat.completion", "choices": [choice]}).encode())
    yield End()


def is_slow(request: SimRequest) -> Script:
    """Answer after SLOW_S."""
    yield Wait(SLOW_S)
    yield from answers(request)


def is_down(request: SimRequest) -> Script:
    """Answer 530, as Cloudflare does for a tunnel that is down."""
    yield Head(530, {"content-type": "text/plain"})
    yield Data(b"error code: 1033")
    yield End()


def breaks_off(request: SimRequest) -> Script:
    """Close the connection in the middle of an answer."""
    yield Head(200, EVENT_STREAM)
    yield Data(event({"choices": [{"index": 0, "delta": {"content": "so"}, "finish_reason": None}]}))
    yield Wait(FIRST_TOKEN_S)
    yield Close()


def event(data: object) -> bytes:
    """Encode one server-sent event."""
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def flaky() -> Respond:
    """Return a provider that fails two of five times: too rarely for its breaker, too often for retries."""
    fails = cycle((False, True, False, True, False))

    def respond(request: SimRequest) -> Script:
        if next(fails):
            yield Head(503, {"content-type": "text/plain", "content-length": "0"})
            yield End()
        else:
            yield from answers(request)

    return respond


def wants_key(request: SimRequest) -> Script:
    """Answer those who have a key, and say what is left of its limits."""
    if "authorization" not in request.headers:
        yield Head(401, JSON)
        yield Data(b'{"error": {"message": "No API key.", "code": "invalid_api_key"}}')
    elif request.method == "GET":
        yield Head(200, JSON)
        yield Data(b'{"object": "list", "data": []}')
    else:
        for action in answers(request):
            yield Head(200, {**action.headers, **LIMITS}) if isinstance(action, Head) else action
        return
    yield End()


LIMITS = {"x-ratelimit-remaining-requests": "100", "x-ratelimit-reset-requests": "1s"}
KEY_VARIABLE = "DUB5_KEYED_KEY"
BUDGET_USD = 0.0002  # of the keyed provider
PRICE = (2.5, 10.0)  # of every model: dollars per million tokens, prompt and completion
PROVIDERS: dict[str, Respond] = {
    "down": is_down,
    "up": answers,
    "torn": breaks_off,
    "flaky": flaky(),
    "slow": is_slow,
    "keyed": wants_key,
}
STALE_SOON = ("ttl_s = 1", "stale_while_revalidate_s = 60")
ROUTES: dict[str, tuple[str, ...]] = {  # lines of TOML; the last table is the cache's
    "chat": ('targets = ["down/m", "up/m"]', "[route.cache]", *STALE_SOON),
    "torn": ('targets = ["torn/m"]', "[route.cache]"),
    "down": ('targets = ["down/m"]', "[route.cache]"),
    "sorry": ('targets = ["down/m"]', "[route.degraded]", "enabled = true", "[route.cache]"),
    "flaky": ('targets = ["flaky/m"]', "[route.cache]"),
    "slow": ('targets = ["slow/m"]', "[route.cache]", "ttl_s = 0.1"),
    "keyed": ('targets = ["keyed/m", "up/m"]', "[route.cache]"),
}


def settings(urls: Mapping[str, str]) -> str:
    """Return the settings of a service over these providers, with a concurrency limit of 4."""
    lines = ["[limiter]", "max = 4", "[keys]", "check_s = 3", "[session]", "[conversation]", "[documents]"]
    lines += ["[jobs]", "workers = 2", "[limits]", "session = {count = 1000, window_s = 60}"]
    lines += ["[database]", 'url_env = "DUB5_DATABASE_URL"']
    lines += ["[notify]", 'url_env = "DUB5_HOOK_URL"', 'secret_env = ["DUB5_HOOK_SECRET"]']
    for name, url in urls.items():
        lines += ["[[provider]]", f'name = "{name}"', 'dialect = "openai"', f'base_url = "{url}/v1"']
        if name == "keyed":
            lines += [f'key_env = ["{KEY_VARIABLE}"]', f"spend_max_usd_per_day = {BUDGET_USD}"]
        lines += ["[provider.prices]", f"m = {{prompt = {PRICE[0]}, completion = {PRICE[1]}}}"]
    for route, more in ROUTES.items():
        lines += ["[[route]]", f'name = "{route}"', *more, "enabled = true"]
    return "\n".join(lines)
