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
MOMENTS = ("", "accepted", "begin", "delta", "delta", "end")
AGAIN_SHARE = 0.3
FORGOTTEN_S = 61.0  # after which a process does not remember a turn that has ended
STOLEN = "stolen"  # the title that a stranger gives to a conversation


@dataclass(frozen=True, slots=True)
class PlannedConnection:
    """What becomes of the connections of a turn. Moments are types of messages, "" is none.

    `socket`: it is asked over a WebSocket. `lost_after`: the moment after which the connection is lost,
    instead of after a time; `back_s`: when another one reads the turn on, None: never; `back_by`: how.
    `lost_again`: as `lost_after`, of that one, once more. `pause_s`: between its reads. `beside`: how a
    second connection reads the turn meanwhile. `stop_after`: when the person ends the turn.
    """

    socket: bool = False
    lost_after: str = ""
    back_s: float | None = None
    back_by: str = "resume"
    lost_again: str = ""
    pause_s: float = 0.0
    beside: str = ""
    stop_after: str = ""


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
    connection: PlannedConnection = PlannedConnection()


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
        turn = _turn(world, people, number, people.turns + 1)
        turn = replace(turn, leave_s=None, twice="", tidy="", connection=_undisturbed(turn.connection))
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
    stranger = rng.choice(("read", "ask", "resume", "events", "stop", "stop by socket", "rename", "delete"))
    tidy = rng.choice(("list", "list", "rename", "delete"))
    low_s, high_s = world.load.deadline_s
    leaves = drawn["leave"] < people.leave_share and not last and twice != "at once"
    words = f" {rng.choice(('tell', 'show', 'give'))} me more" * (LONG_WORDS // 3)
    question = f"Person {person} asks {i} of world {world.seed}" + (
        words if drawn["long"] < people.long_share else ""
    )
    stream = drawn["stream"] < people.stream_share
    connection = _connection(world, people, person, i, leaves=leaves, stream=stream)
    return PlannedTurn(
        number=FIRST_NUMBER + person * PER_PERSON + 2 * i,
        think_s=think_s,
        question=question,
        stream=stream,
        deadline_s=300.0 if last else round(rng.uniform(low_s, high_s), 2),
        leave_s=leave_s if leaves and not connection.lost_after else None,
        twice="" if last else twice,
        begins=i == 0 or drawn["new"] < people.new_share,
        reread=last or drawn["reread"] < people.reread_share,
        stranger=stranger if drawn["stranger"] < people.stranger_share else "",
        tidy=tidy if drawn["tidy"] < people.tidy_share and not last else "",
        last=last,
        connection=_undisturbed(connection) if last else connection,
    )


def _connection(
    world: World, people: People, person: int, i: int, *, leaves: bool, stream: bool
) -> PlannedConnection:
    rng = Random(f"{world.seed}:person:{person}:turn:{i}:connection")
    drawn = {name: rng.random() for name in ("socket", "back", "again", "beside", "stop")}
    moment, again, stop_after = rng.choice(MOMENTS), rng.choice(MOMENTS), rng.choice(("accepted", "delta"))
    back_s = rng.choice((0.0, 0.3, 0.8, 0.8, 1.5)) * people.linger_s + rng.random() * 0.1
    back_s = rng.choice((back_s, back_s, back_s, back_s, FORGOTTEN_S))
    back_by, beside = rng.choice(("resume", "resume", "events", "ask")), rng.choice(("resume", "events"))
    pause_s = rng.choice((0.0, 0.0, 0.05, 0.5))
    back, socket = leaves and drawn["back"] < people.back_share, drawn["socket"] < people.socket_share
    return PlannedConnection(
        socket=socket,
        lost_after=moment if leaves and (socket or stream) else "",
        back_s=back_s if back else None,
        back_by=back_by,
        lost_again=again if back and drawn["again"] < AGAIN_SHARE else "",
        pause_s=pause_s,
        beside=beside if drawn["beside"] < people.beside_share else "",
        stop_after=stop_after if not leaves and drawn["stop"] < people.stop_share else "",
    )


def _undisturbed(connection: PlannedConnection) -> PlannedConnection:
    return PlannedConnection(socket=connection.socket, back_by=connection.back_by)
