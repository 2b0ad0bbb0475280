"""The routes of jobs. Without a database they do not exist.

GET  /v1/jobs/{job}          the job: how many of its steps are done
GET  /v1/jobs/{job}/events   the same as server-sent events, on each change: `progress` ... `end`
POST /v1/jobs/{job}/stop     end it
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp, Receive, Scope, Send

from dub5.service.api.chat import ApiDependencies
from dub5.service.api.connected import while_connected
from dub5.service.api.conversations import owner_of_request
from dub5.service.api.errors import ClientGone
from dub5.service.api.peer import AsgiPeer, Peer
from dub5.service.api.response import ResponseWriter
from dub5.service.api.routes import HttpRequest, get_or_head, json_response, part_of
from dub5.service.api.stream import HEARTBEAT_S
from dub5.service.errors import StreamStalled
from dub5.service.jobs.jobs import Jobs, not_found
from dub5.service.jobs.model import Job
from dub5.service.jobs.watching import JobListener
from dub5.service.model import Chunk
from dub5.service.timeouts import NEVER, Timeouts

PATH = "/v1/jobs/{job:str}"
HEARTBEAT = Chunk(b": the job goes on\n\n")


def job_routes(deps: Callable[[], ApiDependencies]) -> list[HTTPRouteHandler]:
    """Create the handlers. `deps` returns the current dependencies."""

    @get_or_head(PATH)
    async def read(request: HttpRequest, job: FromPath[str]) -> Response[bytes]:
        """Return a job."""
        jobs, owner = _opened(deps(), request, job)
        found = await jobs.read(owner, job)
        if found is None:
            raise not_found()
        return json_response(job_object(found))

    @get(f"{PATH}/events")
    async def events(request: HttpRequest, job: FromPath[str]) -> ASGIApp:
        """Send a job as often as it changes."""
        jobs, owner = _opened(deps(), request, job)
        return JobEvents(deps(), jobs, await jobs.watch(owner, job))

    @post(f"{PATH}/stop", status_code=200)
    async def stop(request: HttpRequest, job: FromPath[str]) -> Response[bytes]:
        """End a job, and return it."""
        jobs, owner = _opened(deps(), request, job)
        return json_response(job_object(await jobs.stop(owner, job)))

    return [read, events, stop]


def job_object(job: Job) -> dict[str, Any]:
    """Return a job, as JSON."""
    return {
        "id": job.id,
        "object": "job",
        "kind": job.kind,
        "subject": job.subject,
        "state": job.state,
        "done": job.done,
        "steps": job.steps,
        "problem": job.problem,
        "created_at": job.made_at,
        "ended_at": job.ended_at,
    }


def _opened(deps: ApiDependencies, request: HttpRequest, id_: str) -> tuple[Jobs, str]:
    """Return the jobs, and whose they are.

    Raises NotFound without a database, JobNotFound for what is no id, Unauthorized, SessionRequired,
    CsrfRefused.
    """
    return part_of(deps.jobs, request, id_, not_found), owner_of_request(deps, request)


class JobStream:
    """The events of a listener, as chunks that are ready to send; a heartbeat after a silence."""

    usage = None

    def __init__(self, listener: JobListener) -> None:
        self._listener = listener

    async def read(self) -> list[Chunk]:
        """Return the next events, or a heartbeat; nothing after the end."""
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                job = await self._listener.read()
        except TimeoutError:
            return [HEARTBEAT]
        return [] if job is None else _events_of(job)

    async def aclose(self) -> None:
        """Watch no more."""
        self._listener.leave()


class JobWriter(ResponseWriter):
    """Sends the events of a job. A stream without `end` was cut: the client watches again."""

    done = b""


class JobEvents:
    """GET .../events: a job as often as it changes, as an ASGI application."""

    def __init__(self, deps: ApiDependencies, jobs: Jobs, listener: JobListener) -> None:
        self._deps = deps
        self._jobs = jobs
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(self._carry(AsgiPeer(receive, send)), receive, "events of a job")
        finally:
            await self._jobs.given_back()  # some hosts stop the process after a request

    async def _carry(self, peer: Peer) -> None:
        timeouts, stream = Timeouts(NEVER), JobStream(self._listener)
        id_ = self._deps.new_id()
        writer = JobWriter(id_, peer, timeouts, self._deps.server.client_stall_s)
        try:
            await writer.send_stream({"x-request-id": id_}, await stream.read(), stream)
        except (ClientGone, StreamStalled, TimeoutError):
            pass
        finally:
            await stream.aclose()
            timeouts.close()


def _events_of(job: Job) -> list[Chunk]:
    data = msgspec.json.encode(job_object(job))
    names = (b"progress", b"end") if job.ended else (b"progress",)
    return [Chunk(b"event: %s\ndata: %s\n\n" % (name, data)) for name in names]
