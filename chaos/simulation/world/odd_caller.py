"""An odd caller: its requests are refused by some providers, or by all, in several shapes of errors.

fault      every provider refuses it                    filtered   for its content
feature    this provider lacks something                long       for its length
model      it names a model that is not there           costly     for its price, or its size
forbidden  this account may not have it                 echo       with the caller's own text about an account
breaks     no refusal: this provider fails with it, by a status, a cut or silence

A request names its kind at the beginning of its prompt. `odd_caller(...)` draws the caller of a world,
`odd_requests(...)` when it sends what, and OddProvider refuses it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import msgspec

from dub5.chaos.simulation.world.model import OddCaller, World, WorldProvider
from dub5.simulators.personas.base import JSON, FixedResponse, ParsedRequest, PersonaContext
from dub5.simulators.provider import SimulatedProvider
from dub5.simulators.script import Action, Close, Data, End, Hang, Head, Reset, Script, SimRequest

FAULT, FILTERED, BREAKS = "fault", "filtered", "breaks"
SHAPES = 15  # of an error's body: five of providers, the others wrapped by a gateway
INSIDE_SHARE = 0.3  # of the refusals that come inside a 200
FIRST_NUMBER = 1_000_000  # of its requests, after those of all others
# Status, message and code of each kind of refusal.
FORMS: dict[str, tuple[tuple[int, str, str], ...]] = {
    FAULT: (
        (400, "Invalid value for temperature: must be between 0 and 2.", "invalid_value"),
        (422, "messages.0.content: Field required", "missing"),
    ),
    "feature": (
        (400, "Unrecognized request argument supplied: top_k", ""),
        (404, "No endpoints found that support tool use", ""),
        (422, "Extra inputs are not permitted", "extra_forbidden"),
    ),
    "model": (
        (404, "The model `other` does not exist or you do not have access to it.", "model_not_found"),
        (400, "other is not a valid model ID", ""),
    ),
    "forbidden": ((403, "This organization may not use service_tier: priority.", ""), (403, "Forbidden", "")),
    "costly": (
        (402, "This request requires more credits, or fewer max_tokens. You can only afford 100.", ""),
        (402, "Payment required", ""),
        (413, "Request too large", "request_too_large"),
    ),
    "echo": (
        (400, "Invalid value for user: my credit balance is too low", ""),
        (422, "user: the api key expired, and billing is not active", ""),
    ),
    "long": (
        (400, "prompt is too long: 210000 tokens > 200000 maximum", ""),
        (400, "This model's maximum context length is 4096 tokens.", "BadRequestError"),
    ),
    FILTERED: (
        (403, "Content violates usage guidelines. Failed check: violence", ""),
        (400, "The prompt triggered our content management policy.", FILTERED),
    ),
}

# What a provider does with a request that breaks it.
_SSE = {"content-type": "text/event-stream"}
_WORD = Data(b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"The"},"finish_reason":null}]}\n\n')
FAILURES: tuple[tuple[Action, ...], ...] = (
    *((Head(status, {}), Data(b"Internal server error"), End()) for status in (500, 502, 503, 504)),
    (Close(),),
    (Reset(),),
    (Hang(),),
    (Head(200, _SSE), Close()),
    (Head(200, _SSE), _WORD, Close()),
    (Head(200, _SSE), _WORD, Hang()),
)


def _body(shape: int, status: int, message: str, code: str) -> Any:
    """Return an error's body in one of the shapes of real providers."""
    match shape:
        case 0:
            return {
                "error": {"message": message, "type": code or "error", "param": None, "code": code or None}
            }
        case 1:
            return {"object": "error", "message": message, "type": code or "error", "code": code or status}
        case 2:
            return {"detail": message} if not code else {"detail": message, "error_code": code}
        case 3:
            return [{"error": {"code": code or status, "message": message, "status": "INVALID_ARGUMENT"}}]
        case 4:
            return {"type": "error", "error": {"type": code or "error", "message": message}}
        case _:
            return _wrapped(shape, status, _body(shape % 5, status, message, code))


def _wrapped(shape: int, status: int, error: Any) -> Any:
    """Return an error as a gateway in front of the provider passes it on, with the status that it had."""
    text = msgspec.json.encode(error).decode()
    if shape % 2:
        return {"error": {"message": f"litellm.APIError: {text}", "type": None, "code": str(status)}}
    message = "Provider returned error"
    return {"error": {"code": status, "message": message, "metadata": {"raw": text, "provider_name": "Sim"}}}


def odd_caller(
    seed: int, providers: Sequence[WorldProvider], callers: int, *, often: bool
) -> OddCaller | None:
    """Draw the odd caller of a world, or None. Callers without keys could not be told from it."""
    rng = Random(f"{seed}:odd")
    if not callers or rng.random() > (0.9 if often else 0.3):
        return None
    kinds = rng.sample(sorted(FORMS), rng.randint(2, 5))
    refused = {p.name: tuple(k for k in kinds if k == FAULT or rng.random() < 0.5) for p in providers}
    return _with_breaking(seed, OddCaller(rng.choice((0.5, 1.0, 3.0)), tuple(kinds), refused))


def _with_breaking(seed: int, odd: OddCaller) -> OddCaller:
    """Let most requests of some odd callers make some of the providers fail."""
    rng = Random(f"{seed}:breaks")
    if rng.random() > 0.5:
        return odd
    kinds = (*odd.kinds[:1], *[BREAKS] * rng.randint(1, 4))
    refused = {name: (*kinds, BREAKS) if rng.random() < 0.7 else kinds for name, kinds in odd.refused.items()}
    return replace(odd, kinds=kinds, refused=refused)


def odd_requests(world: World) -> list[tuple[int, float, str, str, bool]]:
    """Return number, time, route, kind and "is a stream" of each request of the odd caller."""
    if world.odd is None:
        return []
    rng, at_s = Random(f"{world.seed}:odd requests"), 0.0
    found: list[tuple[int, float, str, str, bool]] = []
    while (at_s := at_s + rng.expovariate(world.odd.rate_per_s)) < world.traffic_s:
        number, route = FIRST_NUMBER + len(found), rng.choice(world.routes).name
        found.append((number, at_s, route, rng.choice(world.odd.kinds), rng.random() < 0.5))
    return found


def odd_prompt(kind: str, number: int) -> str:
    """Return the prompt of an odd request."""
    return f"Odd {kind}: {number}"


class OddProvider(SimulatedProvider):
    """A simulated provider that refuses some kinds of odd requests, each always in the same words."""

    refused: dict[str, Callable[[], Script]]

    def refuse(self, world: World) -> None:
        """Refuse what this provider refuses in this world."""
        self.refused, name = {}, self.profile.name
        for kind in world.odd.refused.get(name, ()) if world.odd else ():
            rng = Random(f"{world.seed}:odd:{name}:{kind}")
            if kind == BREAKS:
                failure = rng.choice(FAILURES)
                self.refused[kind] = partial(iter, failure)
                continue
            status, message, code = rng.choice(FORMS[kind])
            shape, inside = rng.randrange(SHAPES), rng.random() < INSIDE_SHARE
            body = msgspec.json.encode(_body(shape, status, message, code))
            response = FixedResponse(200 if inside else status, {"content-type": JSON}, body)
            self.refused[kind] = response.script

    def _answer(
        self, request: SimRequest, parsed: ParsedRequest, context: PersonaContext
    ) -> tuple[Script, str]:
        script, reason = super()._answer(request, parsed, context)
        kind = parsed.prompt.removeprefix("Odd ").partition(":")[0] if parsed.prompt[:4] == "Odd " else ""
        refusal = self.refused.get(kind)
        return (script, reason) if refusal is None or reason else (refusal(), "odd")
