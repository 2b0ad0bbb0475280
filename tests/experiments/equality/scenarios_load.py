"""Time and room: deadlines, hedges, limits, the queue, overload, clients that leave."""

from dataclasses import replace

from tests.experiments.equality.scenario import Faults, Scenario, Together, Wait, chat, get, stream, warm

HEDGES = "[hedge]\nshare = 0.5\ndelay_min_s = 0.2\n[budget]\nfloor_per_s = 100.0\n[probe]\nenabled = false\n"
ONE_PLACE = "[limiter]\nmin = 1\nmax = 1\n"
SLOW = {"one": ("slow:20",)}

LOAD = (
    Scenario(
        "deadlines",
        (chat().by(x_deadline_ms="700"), stream().by(x_deadline_ms="700")),
        faults={"one": ("stall:head",), "two": ("stall:head",)},
    ),
    Scenario(
        "deadline in a stream", (stream().by(x_deadline_ms="1500"),), faults={"one": ("stall:end", "slow:30")}
    ),
    Scenario("late", (chat().by(x_deadline_ms="8000"),), faults={"one": ("stall:head",)}),
    Scenario("slow", (*warm(40, stream()), Faults("one", ("stall:head",)), stream(), stream()), more=HEDGES),
    Scenario(
        "back again",
        (*warm(8, chat()), Faults("one"), Wait(20.0), chat(), chat(), get("/status")),
        faults={"one": ("status:500",)},
    ),
    Scenario(
        "its own limit",
        (chat(), chat(), chat()),
        names=("one",),
        simulated={"one": {"limits": {"requests_per_minute": 2}}},
    ),
    Scenario(
        "queue",
        (Together(tuple(chat().at(n / 100) for n in range(4))),),
        names=("one",),
        faults=SLOW,
        more=f"{ONE_PLACE}[admission]\nwaiting_max = 2\n",
    ),
    Scenario(
        "in line by priority",
        (
            Together(
                (
                    stream().by(authorization="Bearer caller-b"),
                    stream().by(authorization="Bearer caller-b").at(0.1),
                    stream().by(authorization="Bearer caller-a").at(0.2),
                )
            ),
        ),
        names=("one",),
        faults=SLOW,
        more=f'{ONE_PLACE}[server]\ncaller_keys_env = ["CALLER_A", "CALLER_B"]\n'
        '[admission.priorities]\nCALLER_A = "high"\nCALLER_B = "low"\n',
    ),
    Scenario(
        "no room",
        (Together((chat(), chat().at(0.01), stream().at(0.02))), chat()),
        more="[server]\nin_flight_max = 1\n",
    ),
    Scenario(
        "its slots",
        (Together((chat(), chat().at(0.01), chat().at(0.02))),),
        names=("one",),
        simulated={"one": {"capacity": {"slots": 1, "queue_max": 0}}},
    ),
    Scenario(
        "clients leave",
        (replace(stream(), leaves_s=0.15), replace(stream(), leaves_s=4.0), get("/status")),
        names=("one",),
        faults=SLOW,
    ),
)
