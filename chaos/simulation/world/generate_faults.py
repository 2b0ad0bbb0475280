"""Generate the fault windows of a world's storm. A world has a few kinds of fault, each several times."""

from collections.abc import Sequence
from random import Random
from typing import Any

from dub5.chaos.simulation.world.model import STALE, FaultWindow, WorldProvider

CUTS = ("close", "reset", "error_event", "end_without_finish")


def generate_faults(
    seed: int, providers: Sequence[WorldProvider], from_s: float, for_s: float
) -> tuple[FaultWindow, ...]:
    """Return the fault windows between warm-up and heal. Some worlds spare one provider; some faults hit
    all."""
    rng = Random(f"{seed}:storm")
    names = [provider.name for provider in providers]
    if not names:
        return ()
    if len(names) > 1 and rng.random() < 0.4:
        names.remove(rng.choice(names))
    kinds = rng.sample(sorted(KINDS), rng.randint(1, 4))
    found = []
    for _ in range(rng.randint(0, 7) if rng.random() < 0.95 else 0):
        at_s = from_s + rng.random() * for_s * 0.9
        until_s = min(from_s + for_s, at_s + rng.choice((0.5, 3.0, 10.0, 30.0, 60.0)) * rng.uniform(0.5, 1.5))
        fault = KINDS[rng.choice(kinds)](rng)
        names_hit = names if rng.random() < 0.15 else [rng.choice(names)]
        found += [
            FaultWindow(name, round(at_s, 2), round(until_s - at_s, 2) + 0.01, fault) for name in names_hit
        ]
    return tuple(sorted(found, key=lambda window: (window.at_s, window.provider)))


def _frequency(rng: Random) -> dict[str, Any]:
    """Choose how often a fault applies: always, to a share of the requests, or in flaps."""
    match rng.randrange(6):
        case 0:
            return {"share": rng.choice((0.05, 0.3, 0.7))}
        case 1:
            return {"up_s": rng.choice((1.0, 5.0)), "down_s": rng.choice((0.5, 3.0))}
        case 2:
            return {"first": rng.choice((1, 3, 10))}
        case _:
            return {}


def _transient(rng: Random) -> dict[str, Any]:
    return {"kind": "status", "status": rng.choice((500, 502, 503, 504)), **_frequency(rng)}


def _edge_error(rng: Random) -> dict[str, Any]:
    return {"kind": "status", "status": rng.choice((520, 522, 524, 529, 530)), **_frequency(rng)}


def _limited(rng: Random) -> dict[str, Any]:
    wait_s = rng.choice((None, 0.0, 0.2, 1.0, 2.5, 5.0, 20.0, 90.0, 900.0))
    return {
        "kind": "status",
        "status": rng.choice((429, 429, 429, 503, 529)),
        "retry_after_s": wait_s,
        **_frequency(rng),
    }


def _refused(rng: Random) -> dict[str, Any]:
    status = rng.choice((400, 401, 403, 404, 404, 408, 413))
    return {"kind": "status", "status": status, "share": rng.choice((0.05, 0.3))}


def _stall(rng: Random) -> dict[str, Any]:
    before = rng.choice(("head", "head", "body", "first_token", "end"))
    return {
        "kind": "stall",
        "before": before,
        "s": rng.choice((None, 0.7, 2.0, 6.0, 20.0)),
        **_frequency(rng),
    }


def _slow(rng: Random) -> dict[str, Any]:
    return {"kind": "slow", "factor": rng.choice((3, 8, 20))}


def _cut(rng: Random) -> dict[str, Any]:
    return {"kind": "cut", "after_tokens": rng.randint(0, 8), "how": rng.choice(CUTS), **_frequency(rng)}


def _cut_late(rng: Random) -> dict[str, Any]:
    return {
        "kind": "cut",
        "after_tokens": rng.randint(3, 8),
        "how": rng.choice(CUTS),
        "share": rng.choice((0.1, 0.5)),
    }


def _broken_off(rng: Random) -> dict[str, Any]:
    return {
        "kind": rng.choice(("reset", "close")),
        "before": rng.choice(("head", "body", "first_token")),
        **_frequency(rng),
    }


def _nonsense(rng: Random) -> dict[str, Any]:
    how = rng.choice(("status_line", "chunk", "length_long", "gzip", "html", "no_content", "not_sse"))
    return rng.choice(
        (
            {"kind": "garbage", "where": rng.choice(("json", "sse"))},
            {"kind": "empty"},
            {"kind": "broken", "how": how},
        )
    ) | _frequency(rng)


def _unreachable(rng: Random) -> dict[str, Any]:
    fault = {
        "kind": "unreachable",
        "stage": rng.choice(("connect", "connect", "resolve")),
        "how": rng.choice(("refused", "stall")),
    }
    if fault["stage"] == "connect" and rng.random() < 0.5:
        return {**fault, "closes_open": True}
    return {**fault, **({"share": 0.5} if rng.random() < 0.2 else {})}


def _stale(rng: Random) -> dict[str, Any]:
    return {"kind": STALE}


# The names and their order are part of the random choice: another name gives other worlds.
KINDS = {
    "blink": _transient,
    "edge": _edge_error,
    "limited": _limited,
    "refused": _refused,
    "stall": _stall,
    "slow": _slow,
    "cut": _cut,
    "cut_late": _cut_late,
    "broken_off": _broken_off,
    "nonsense": _nonsense,
    "gone": _unreachable,
    "stale": _stale,
}
