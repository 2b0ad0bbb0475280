"""What goes wrong in a world's storm. A world has a few kinds of trouble, each several times."""

from collections.abc import Sequence
from random import Random
from typing import Any

from dub5.chaos.simulation.world.model import STALE, Provider, Trouble

CUTS = ("close", "reset", "error_event", "end_without_finish")


def storm(seed: int, providers: Sequence[Provider], from_s: float, for_s: float) -> tuple[Trouble, ...]:
    """The troubles between warm-up and heal. Some worlds spare one provider; some strike all at once."""
    dice = Random(f"{seed}:storm")
    names = [provider.name for provider in providers]
    if not names:
        return ()
    if len(names) > 1 and dice.random() < 0.4:
        names.remove(dice.choice(names))
    kinds = dice.sample(sorted(KINDS), dice.randint(1, 4))
    found = []
    for _ in range(dice.randint(0, 7) if dice.random() < 0.95 else 0):
        at_s = from_s + dice.random() * for_s * 0.9
        until_s = min(
            from_s + for_s, at_s + dice.choice((0.5, 3.0, 10.0, 30.0, 60.0)) * dice.uniform(0.5, 1.5)
        )
        fault = KINDS[dice.choice(kinds)](dice)
        struck = names if dice.random() < 0.15 else [dice.choice(names)]
        found += [Trouble(name, round(at_s, 2), round(until_s - at_s, 2) + 0.01, fault) for name in struck]
    return tuple(sorted(found, key=lambda t: (t.at_s, t.provider)))


def _often(dice: Random) -> dict[str, Any]:
    """How often it strikes: always, a share of the requests, or in flaps."""
    match dice.randrange(6):
        case 0:
            return {"share": dice.choice((0.05, 0.3, 0.7))}
        case 1:
            return {"up_s": dice.choice((1.0, 5.0)), "down_s": dice.choice((0.5, 3.0))}
        case 2:
            return {"first": dice.choice((1, 3, 10))}
        case _:
            return {}


def _blink(dice: Random) -> dict[str, Any]:
    return {"kind": "status", "status": dice.choice((500, 502, 503, 504)), **_often(dice)}


def _edge(dice: Random) -> dict[str, Any]:
    return {"kind": "status", "status": dice.choice((520, 522, 524, 529, 530)), **_often(dice)}


def _limited(dice: Random) -> dict[str, Any]:
    wait_s = dice.choice((None, 0.0, 0.2, 1.0, 2.5, 5.0, 20.0, 90.0, 900.0))
    return {
        "kind": "status",
        "status": dice.choice((429, 429, 429, 503, 529)),
        "retry_after_s": wait_s,
        **_often(dice),
    }


def _refused(dice: Random) -> dict[str, Any]:
    status = dice.choice((400, 401, 403, 404, 404, 408, 413))
    return {"kind": "status", "status": status, "share": dice.choice((0.05, 0.3))}


def _stall(dice: Random) -> dict[str, Any]:
    before = dice.choice(("head", "head", "body", "first_token", "end"))
    return {"kind": "stall", "before": before, "s": dice.choice((None, 0.7, 2.0, 6.0, 20.0)), **_often(dice)}


def _slow(dice: Random) -> dict[str, Any]:
    return {"kind": "slow", "factor": dice.choice((3, 8, 20))}


def _cut(dice: Random) -> dict[str, Any]:
    return {"kind": "cut", "after_tokens": dice.randint(0, 8), "how": dice.choice(CUTS), **_often(dice)}


def _cut_late(dice: Random) -> dict[str, Any]:
    return {
        "kind": "cut",
        "after_tokens": dice.randint(3, 8),
        "how": dice.choice(CUTS),
        "share": dice.choice((0.1, 0.5)),
    }


def _broken_off(dice: Random) -> dict[str, Any]:
    return {
        "kind": dice.choice(("reset", "close")),
        "before": dice.choice(("head", "body", "first_token")),
        **_often(dice),
    }


def _nonsense(dice: Random) -> dict[str, Any]:
    how = dice.choice(("status_line", "chunk", "length_long", "gzip", "html", "no_content", "not_sse"))
    return dice.choice(
        (
            {"kind": "garbage", "where": dice.choice(("json", "sse"))},
            {"kind": "empty"},
            {"kind": "broken", "how": how},
        )
    ) | _often(dice)


def _gone(dice: Random) -> dict[str, Any]:
    fault = {
        "kind": "unreachable",
        "stage": dice.choice(("connect", "connect", "resolve")),
        "how": dice.choice(("refused", "stall")),
    }
    if fault["stage"] == "connect" and dice.random() < 0.5:
        return {**fault, "closes_open": True}
    return {**fault, **({"share": 0.5} if dice.random() < 0.2 else {})}


def _stale(dice: Random) -> dict[str, Any]:
    return {"kind": STALE}


KINDS = {
    "blink": _blink,
    "edge": _edge,
    "limited": _limited,
    "refused": _refused,
    "stall": _stall,
    "slow": _slow,
    "cut": _cut,
    "cut_late": _cut_late,
    "broken_off": _broken_off,
    "nonsense": _nonsense,
    "gone": _gone,
    "stale": _stale,
}
