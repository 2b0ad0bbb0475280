"""People: visitors and callers whose conversations the service keeps. What those of a world are like."""

from dataclasses import dataclass

from dub5.simulators.virtual.database import DatabaseFault


@dataclass(frozen=True, slots=True)
class People:
    """What the people of a world are like. Shares are of turns.

    `turns`: of each person, before the rest; one more follows it. `new_share`: turns that begin another
    conversation. `socket_share`: over a WebSocket. `back_share`: of those who leave, who read the turn on.
    `beside_share`: read over a second connection as well. `patience_s`, `keep_s`: the settings of the
    database; `linger_s`: of conversations.
    """

    count: int
    turns: int
    think_s: float = 2.0  # in the mean, between two turns
    stream_share: float = 0.5
    leave_share: float = 0.0
    ask_twice_share: float = 0.0
    stranger_share: float = 0.0
    reread_share: float = 0.0
    long_share: float = 0.0
    new_share: float = 0.1
    tidy_share: float = 0.0  # lists, renames and deletes
    socket_share: float = 0.0
    back_share: float = 0.0
    beside_share: float = 0.0
    stop_share: float = 0.0
    context_tokens: int = 8_000
    patience_s: float = 0.05
    keep_s: float = 0.25
    linger_s: float = 15.0


SHARES = (
    *("stream", "leave", "ask_twice", "stranger", "reread", "long", "new", "tidy"),
    *("socket", "back", "beside", "stop"),
)


@dataclass(frozen=True, slots=True)
class Crash:
    """The process dies at `at_s`, as by kill -9, and another one starts on the same storage."""

    at_s: float


def people_lines(people: People | None, faults: tuple[DatabaseFault, ...], crash: Crash | None) -> list[str]:
    """Describe the people, their database and the crash in a few lines."""
    if people is None:
        return []
    told = [f"{name} {share:.0%}" for name in SHARES if (share := getattr(people, f"{name}_share"))]
    head = (
        f"  {people.count} people, {people.turns} turns each, {people.think_s:g} s apart: {', '.join(told)}"
    )
    lines = [f"{head}; a window of {people.context_tokens:,} tokens, linger {people.linger_s:g} s"]
    for fault in faults:
        until_s, wait = fault.at_s + fault.for_s, f" wait_s={fault.wait_s:g}" if fault.kind == "slow" else ""
        told_as = f"{fault.kind} share={fault.share:g}{wait}"
        lines.append(f"  {fault.at_s:6.1f} - {until_s:5.1f} s  the database: {told_as}")
    return [*lines, *([f"  the process dies at {crash.at_s:g} s"] if crash else [])]
