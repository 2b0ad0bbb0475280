"""How a simulated person asks, over HTTP or a WebSocket, and reads a turn on after a connection was lost.

Asking.ask       a question, and all that is planned for its connections
Asking.read_on   a turn that was asked before, by its owner or a stranger
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from dub5.chaos.run.judge import LEFT, ClientOutcome, Ending, Stop
from dub5.chaos.simulation.invariants.audience import PresentListener
from dub5.chaos.simulation.invariants.people_kept import check_told
from dub5.chaos.simulation.invariants.people_record import (
    OtherRequest,
    PeopleRecord,
    TurnReading,
    TurnRequest,
)
from dub5.chaos.simulation.invariants.record import RequestRecord, RunRecord
from dub5.chaos.simulation.life import Life, Lives
from dub5.chaos.simulation.one_ask import Lost, OneAsk, has_reached
from dub5.chaos.simulation.person_socket import PersonSocket
from dub5.chaos.simulation.turn_reader import TurnReader
from dub5.chaos.simulation.world.model import World
from dub5.chaos.simulation.world.planned_people import PlannedConnection, PlannedPerson, PlannedTurn
from dub5.chaos.simulation.world.requests import PlannedRequest
from dub5.simulators.virtual import AppFault

T = TypeVar("T")
TURNS = "/v1/turns"
ELSEWHERE_S = 30.0  # more, for a turn whose process has died
SLOW_S = 400.0  # more, for a client that reads slowly
LATER_S = 0.2  # until a question is sent again


class Asking:
    """The questions of one person. `request` sends any other HTTP request of it."""

    def __init__(
        self,
        plan: PlannedPerson,
        lives: Lives,
        record: RunRecord,
        world: World,
        headers: Callable[[], Mapping[str, str]],
        request: Callable[[str, str, str], Awaitable[object]],
    ) -> None:
        assert lives.people is not None and lives.storage is not None and world.people is not None, "people"
        self._plan = plan
        self._lives = lives
        self._record = record
        self._people: PeopleRecord = lives.people
        self._storage = lives.storage
        self._world = world
        self._linger_s = world.people.linger_s
        self._headers = headers
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._sockets = 0
        self.socket = self._new_socket()

    def _new_socket(self) -> PersonSocket:
        self._sockets += 1
        who = f"socket {self._sockets} of person {self._plan.number}"
        return PersonSocket(self._lives, self._record, who, self._headers)

    async def ask(self, turn: PlannedTurn, conversation: str) -> TurnRequest:
        """Ask, and do what is planned for the connections. Return the request that asked first."""
        first = self.send(turn, conversation, turn.number, again=turn.twice == "at once")
        if turn.twice == "at once":
            second = self.send(turn, conversation, turn.number + 1, again=True, apart=True)
            tasks = [self._task(work, name) for work, name in ((first, "first"), (second, "second"))]
            await asyncio.gather(*tasks)
            return tasks[0].result()
        asked = await first
        if asked.ended_s is None:  # the process has died
            await self._come_back(turn, asked, 0.0)
        elif asked.request.left_s is not None and turn.connection.back_s is not None:
            await self._come_back(turn, asked, turn.connection.back_s)
        elif turn.twice:
            await asyncio.sleep(LATER_S)
            await self.send(turn, conversation, turn.number + 1, again=True)
        return asked

    async def _come_back(self, turn: PlannedTurn, asked: TurnRequest, back_s: float) -> None:
        """Read a turn on, whatever became of its connection, or send the question again."""
        how = turn.connection
        await asyncio.sleep(back_s)
        by, again = how.back_by, how.lost_again
        if asked.turn and by != "ask":
            reading = await self.read_on(asked, by, asked.text, lost_after=again, pause_s=how.pause_s)
            if reading is not None and reading.ending == LEFT:
                await asyncio.sleep(back_s)
                by = "events" if by == "resume" else "resume"
                reading = await self.read_on(asked, by, reading.text)
            if reading is not None and not reading.code:
                return
        self._record.sometimes["turn asked again after a crash"] += asked.ended_s is None
        await self.send(turn, asked.conversation, turn.number + 1, again=True)

    def _task(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        return asyncio.create_task(work, name=f"person {self._plan.number} {name}")

    # a request

    async def send(
        self, turn: PlannedTurn, conversation: str, number: int, *, again: bool = False, apart: bool = False
    ) -> TurnRequest:
        """Ask. `ended_s` stays None if the process dies meanwhile. `apart`: over a socket of its own."""
        await self._lives.up()
        socket: PersonSocket | None = self._new_socket() if apart else self.socket
        if socket is not None and not (turn.connection.socket and await socket.open()):
            socket = None
        await self._lives.up()
        life, began_s = self._lives.now, self._loop.time()
        request = self._request_record(turn, number, began_s, again=again, socket=socket is not None)
        suffix = "" if number in (turn.number, turn.number + 1) else "-stranger"
        asked = TurnRequest(
            request,
            life.number,
            self._plan.owner,
            conversation,
            f"ask-{turn.number}{suffix}",
            turn.question,
            began_s=began_s,
        )
        request.audience = self._people.audience(
            life.number, self._plan.owner, asked.asked_as, self._linger_s
        )
        self._people.add(asked)
        self._record.log(f"#{number} person {self._plan.number} asks{' again' if again else ''}")
        # What the model of a conversation is may be in a lost database.
        named = len(self._world.routes) > 1 or conversation not in self._people.conversations
        one = OneAsk(
            asked,
            PlannedConnection(socket=turn.connection.socket) if again else turn.connection,
            life,
            socket,
            self._headers(),
            self._plan.route if named else None,
            self._record,
            self._people,
            self._storage,
            lambda: self._stop(asked, socket),
            lambda: self._task(self._read_beside(asked, turn.connection.beside), "beside"),
        )
        ending, ended_s = await one.run(), self._loop.time()
        if apart and socket is not None:
            await socket.finish()
        if one.beside is not None:
            await one.beside
        if life is not self._lives.now or not self._lives.is_up:
            return asked
        request.client_ending, request.client_ended_s = ending, ended_s
        asked.ended_s = ended_s
        self._record.log(f"#{number} is {ending.outcome} {ending.reason}")
        check_told(self._record, self._people, self._storage, asked)
        return asked

    def _request_record(
        self, turn: PlannedTurn, number: int, began_s: float, *, again: bool, socket: bool
    ) -> RequestRecord:
        tuning, route = self._world.tuning_at(began_s), self._world.route(self._plan.route)
        plan = PlannedRequest(
            number=number,
            at_s=began_s,
            route=self._plan.route,
            stream=turn.stream or socket,
            deadline_s=turn.deadline_s,
            prompt=turn.question,
            leave_s=turn.leave_s,
            last=turn.last and not again,
            caller=self._plan.caller,
            whole=(turn.stream or socket) and route.delivery == "whole",
            address=self._plan.address,
            turn=True,
            socket=socket,
            session=self._plan.number if self._plan.caller is None else None,
            again=again,
        )
        deadline_s = began_s + min(turn.deadline_s, tuning.timeouts.total_s)
        request = RequestRecord(plan, deadline_s, began_s, generation=self._world.generation(began_s))
        self._record.requests[number] = request
        return request

    # reading on

    async def read_on(
        self, asked: TurnRequest, by: str, before: str, *, lost_after: str = "", pause_s: float = 0.0
    ) -> TurnReading | None:
        """Read a turn from the end of `before` on. Return None if the process dies meanwhile."""
        await self._lives.up()
        life, began_s, own = self._lives.now, self._loop.time(), asked.owner == self._plan.owner
        reading = TurnReading(asked, life.number, by, own, began_s, before, text=before)
        self._people.readings.append(reading)
        self._record.log(f"person {self._plan.number} reads turn {asked.asked_as} on by {by}")
        audience = self._people.audience(life.number, asked.owner, asked.asked_as, self._linger_s)
        listener = audience.come(began_s, self._record.ran_s) if own else PresentListener(0)
        reading.was_missed = listener.was_missed
        hung_s = max(asked.request.deadline_s, began_s) + ELSEWHERE_S + (SLOW_S if pause_s else 0.0)
        reader = TurnReader(200, asked.question, stream=True, before=before)

        async def read() -> bool:
            """Note what was read; return whether it goes on."""
            reading.start, reading.text, reading.outcome = reader.start, reader.text, reader.outcome
            reading.ended_kept = reader.ended_kept
            listener.is_sure = listener.is_sure or reader.start is not None
            if lost_after and has_reached(reader, lost_after):
                raise Lost
            await asyncio.sleep(pause_s)
            return not reader.is_over

        try:
            async with asyncio.timeout_at(hung_s):
                if by == "events":
                    reading.ending = await self._events(asked, life, reader, read)
                else:
                    reading.ending = await self._resume(asked, reader, read, slow=pause_s > 0)
        except Lost:
            reading.ending = LEFT
        except TimeoutError:
            reading.ending = Ending(ClientOutcome.HUNG, "no_end_in_time")
        except AppFault as fault:
            reading.ending = Ending(ClientOutcome.DISHONEST, str(fault))
        finally:
            audience.leave(listener, self._loop.time())
        if life is not self._lives.now or not self._lives.is_up:
            return None
        reading.ended_s, ending = self._loop.time(), reading.ending
        if reader.start is None and ending.outcome in (ClientOutcome.FAILED, ClientOutcome.REFUSED):
            reading.code = ending.reason
        self._record.log(f"turn {asked.asked_as} is read by {by}: {ending.outcome} {ending.reason}")
        return reading

    async def _events(
        self, asked: TurnRequest, life: Life, reader: TurnReader, read: Callable[[], Awaitable[bool]]
    ) -> Ending:
        after = len(reader.text.encode())
        path, headers = f"{TURNS}/{asked.turn}/events", {**self._headers(), "last-event-id": str(after)}
        async with life.client.stream("GET", path, headers=headers) as reply:
            if reply.status != 200:
                reader = TurnReader(reply.status, asked.question, stream=False)
            try:
                while data := await reply.read():
                    reader.feed(data)
                    if reply.status == 200:
                        await read()
            except AppFault:
                return reader.end(Stop.BROKEN)
            return reader.end(Stop.END)

    async def _resume(
        self, asked: TurnRequest, reader: TurnReader, read: Callable[[], Awaitable[bool]], *, slow: bool
    ) -> Ending:
        socket = self._new_socket()
        socket.is_slow = slow
        try:
            if not await socket.open():
                return LEFT
            after = len(reader.text.encode())
            await socket.send({"type": "resume", "turn": asked.turn, "after": after})
            while (message := await socket.receive()) is not None:
                if message.get("turn") == asked.turn:
                    reader.take(message)
                    if not await read():
                        break
            if message is None:
                return LEFT if slow else reader.end(Stop.BROKEN)
            await socket.finish()
            return reader.end(Stop.END)
        finally:
            await socket.lose()

    async def _stop(self, asked: TurnRequest, socket: PersonSocket | None) -> None:
        """End the turn."""
        assert asked.request.audience is not None, "it is a turn"
        self._record.log(f"person {self._plan.number} stops turn {asked.asked_as}")
        asked.request.audience.stopped_s = self._loop.time()
        self._record.sometimes["stopped"] += 1
        if socket is not None:
            await socket.send({"type": "stop", "turn": asked.turn})
        else:
            await self._request("stop", "POST", f"{TURNS}/{asked.turn}/stop")

    async def _read_beside(self, asked: TurnRequest, by: str) -> None:
        """Read the turn over a second connection as well."""
        self._record.sometimes["two connections on one turn"] += 1
        await self.read_on(asked, by, "")

    async def try_to_stop(self, asked: TurnRequest) -> None:
        """Try to end a turn of somebody else, over a WebSocket: an error is the answer."""
        socket = self._new_socket()
        await self._lives.up()
        life, began_s = self._lives.now, self._loop.time()
        if not await socket.open():
            return
        await socket.send({"type": "stop", "turn": asked.turn})
        await socket.send({"type": "ping"})
        told = await socket.receive()
        await socket.finish()
        if told is None or life is not self._lives.now or not self._lives.is_up:
            return
        code = told["error"]["code"] if told["type"] == "error" else ""
        status = 404 if code else 200
        self._people.others.append(
            OtherRequest("stop", life.number, began_s, self._loop.time(), status, code, own=False)
        )
        self._record.sometimes["stranger refused on a socket"] += bool(code)
