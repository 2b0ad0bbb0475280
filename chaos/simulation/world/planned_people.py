"""Plan what the people of a world do: `planned_people(world)`.

Each turn has a random stream of its own, so leaving some out changes none of the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from dub5.chaos.simulation.world.model import World
from dub5.chaos.simulation.world.people import People

FIRST_NUMBER = 2_000_000  # of their turns, after the requests of all others
PER_PERSON = 1_000
BEFORE_CRASH_S = 0.5
LONG_WORDS = 90  # of a long question
STOLEN = "stolen"  # the title that a stranger gives to a conversation


@dataclass(frozen=True, slots=True)
class PlannedTurn:
    """What a person does in one turn. `twice`: when the turn is sent again: "" or "at once" or "later"."""

    number: int  # of its first request; the next number is that of the second
    think_s: float
    question: str
    stream: bool
    deadline_s: float
    leave_s: float | None = None
    twice: str = ""
    begins: bool = False  # in a new conversation
    reread: bool = False
    stranger: str = ""  # what it tries with the conversation of somebody else
    tidy: str = ""
    last: bool = False


@dataclass(frozen=True, slots=True)
class PlannedPerson:
    """One person. `caller`: the index of its key; None: it has a session. Its owner is one of both."""

    number: int
    caller: int | None
    route: str
    address: str
    turns: tuple[PlannedTurn, ...]
    at_crash: tuple[float, PlannedTurn] | None = None  # one more turn, shortly before the process dies

    @property
    def owner(self) -> str:
        """Return who owns its conversations: callers may share a key."""
        return f"session {self.number}" if self.caller is None else f"caller {self.caller}"


def planned_people(world: World) -> list[PlannedPerson]:
    """Return all people of a world, and what they do."""
    people = world.people
    return [_person(world, people, number) for number in range(people.count)] if people else []


def _person(world: World, people: People, number: int) -> PlannedPerson:
    rng = Random(f"{world.seed}:person:{number}")
    caller = number % len(world.callers) if world.callers else None
    address = f"203.0.113.{rng.randrange(world.addresses)}" if world.addresses else ""
    route, at_crash = rng.choice(world.routes).name, None
    if world.crash is not None:
        turn = replace(_turn(world, people, number, people.turns + 1), leave_s=None, twice="", tidy="")
        at_crash = world.crash.at_s - rng.uniform(0.0, BEFORE_CRASH_S), turn
    return PlannedPerson(number, caller, route, address, tuple(_turns(world, people, number)), at_crash)


def _turns(world: World, people: People, person: int) -> Iterator[PlannedTurn]:
    for i in range(people.turns):
        yield _turn(world, people, person, i)
    if world.drain is None:
        yield _turn(world, people, person, people.turns, last=True)


def _turn(world: World, people: People, person: int, i: int, *, last: bool = False) -> PlannedTurn:
    rng = Random(f"{world.seed}:person:{person}:turn:{i}")
    drawn = {
        name: rng.random()
        for name in ("stream", "leave", "twice", "new", "reread", "stranger", "tidy", "long")
    }
    think_s, leave_s = rng.expovariate(1 / people.think_s), rng.choice((0.02, 0.3, 2.0)) * rng.random()
    twice = rng.choice(("at once", "at once", "later")) if drawn["twice"] < people.ask_twice_share else ""
    stranger = rng.choice(("read", "ask", "ask", "rename", "delete"))
    tidy = rng.choice(("list", "list", "rename", "delete"))
    low_s, high_s = world.load.deadline_s
    words = f" {rng.choice(('tell', 'show', 'give'))} me more" * (LONG_WORDS // 3)
    question = f"Person {person} asks {i} of world {world.seed}" + (
        words if drawn["long"] < people.long_share else ""
    )
    return PlannedTurn(
        number=FIRST_NUMBER + person * PER_PERSON + 2 * i,
        think_s=think_s,
        question=question,
        stream=drawn["stream"] < people.stream_share,
        deadline_s=300.0 if last else round(rng.uniform(low_s, high_s), 2),
        leave_s=leave_s if drawn["leave"] < people.leave_share and not last and twice != "at once" else None,
        twice="" if last else twice,
        begins=i == 0 or drawn["new"] < people.new_share,
        reread=last or drawn["reread"] < people.reread_share,
        stranger=stranger if drawn["stranger"] < people.stranger_share else "",
        tidy=tidy if drawn["tidy"] < people.tidy_share and not last else "",
        last=last,
    )
