"""Answers: dialects and features, embeddings, the cache, shared calls, fallbacks, delivery."""

from typing import Any

from tests.experiments.equality.scenario import Ask, Faults, Scenario, Together, Wait, chat, stream, warm

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
AS_JSON = {"type": "json_object"}
BY_SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
USAGE = {"include_usage": True}
DOWN = {"one": ("status:503",), "two": ("status:503",)}
CACHED = (
    "[route.cache]\nenabled = true\nttl_s = 10.0\nstale_while_revalidate_s = 30.0\nstale_if_error_s = 600.0\n"
)
FALLBACK = "[route.degraded]\nenabled = true\n"
CACHED_FALLBACK = f"{CACHED}{FALLBACK}"
WHOLE = 'delivery = "whole"\n'
KNOWN = chat("Known?", temperature=0)
KNOWN_STREAM = stream("Known?", temperature=0)


def _dialect(name: str) -> dict[str, Any]:
    """Return scenarios in which the first of two providers speaks another dialect."""
    return {
        "simulated": {"one": {"persona": name, "models": ["gpt-sim"]}},
        "provider": {"one": f'dialect = "{name}"'},
    }


def _embed(given: object, **fields: Any) -> Ask:
    return Ask(path="/v1/embeddings", json={"model": "chat", "input": given, "dimensions": 3, **fields})


ANSWERS = (
    Scenario(
        "features",
        (
            chat(),
            stream(),
            chat(n=2),
            chat(tools=[TOOL]),
            stream(tools=[TOOL]),
            chat(response_format=AS_JSON),
            chat(response_format=BY_SCHEMA),
            stream(stream_options=USAGE),
            chat(max_tokens=3),
        ),
    ),
    Scenario(
        "anthropic",
        (chat(), stream(), chat(tools=[TOOL]), chat(logprobs=True), chat(n=2)),
        **_dialect("anthropic"),
    ),
    Scenario(
        "mistral", (chat(), stream(stream_options=USAGE), chat(logit_bias={"1": 1})), **_dialect("mistral")
    ),
    Scenario("nobody has it", (chat(n=2),), names=("one",), **_dialect("anthropic")),
    Scenario(
        "embeddings",
        (_embed("Hi"), _embed(["a", "b"], encoding_format="base64"), _embed([]), _embed("Hi", model="x")),
    ),
    Scenario("embeddings failover", (_embed("Hi"),), faults={"one": ("status:500",)}),
    Scenario(
        "cache",
        (
            KNOWN,
            KNOWN,
            KNOWN_STREAM,
            KNOWN.by(cache_control="no-store"),
            Wait(15.0),
            KNOWN,
            Wait(1.0),
            KNOWN,
        ),
        route=CACHED,
    ),
    Scenario(
        "shared",
        (
            Together((KNOWN_STREAM, KNOWN_STREAM.at(0.05), KNOWN_STREAM.at(0.2))),
            Wait(1.0),
            Together((KNOWN, KNOWN)),
        ),
        route="[route.cache]\nenabled = true\nttl_s = 0.001\n",
    ),
    Scenario(
        "fallback",
        (
            chat(),
            stream(stream_options=USAGE),
            chat("Guten Morgen!"),
            chat("42").by(accept_language="fr-CH, de;q=0.5"),
            chat("Write a function in Python"),
            chat(tools=[TOOL]),
        ),
        faults=DOWN,
        route=FALLBACK,
    ),
    Scenario(
        "fallback in time",
        (chat(), stream()),
        faults={"one": ("stall:head",), "two": ("stall:head",)},
        route="[route.degraded]\nenabled = true\nanswer_within_s = 0.5\n",
    ),
    Scenario(
        "fallback stale",
        (*warm(1, KNOWN), Wait(60.0), Faults("one", ("status:503",)), KNOWN, KNOWN_STREAM),
        names=("one",),
        route=CACHED_FALLBACK,
    ),
    Scenario("whole", (stream(), stream().by(x_dub5_delivery="live")), route=WHOLE),
    Scenario("whole, cut", (stream(),), faults={"one": ("cut:3:close",)}, route=WHOLE),
    Scenario("whole, slow", (stream(),), faults={"one": ("slow:100",)}, route=WHOLE),
)
