"""Sentry: sends crashes and problems to it, where [sentry] is set and dub5[sentry] is installed.

    problems, every few seconds -> one event per group that has grown -> sentry-sdk -> Outgoing -> the wire

The package builds the envelope and nothing else: no integration patches anything, its own transport is not
used, and so it starts no thread. An event holds what /status says of a group: no body, no header, no
variable, no breadcrumb and no message of an exception. `kept_fields` lets only a closed list of fields pass.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import sentry_sdk
from sentry_sdk.consts import EndpointType
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from dub5.service import VERSION
from dub5.service.telemetry.outgoing import Post
from dub5.service.telemetry.problems import CRASH, Problem, count_people

AGAIN_S = 600.0  # between two events of one group
AT_ONCE = 20  # events at one time
CLIENT = f"dub5/{VERSION}"
FIELDS = frozenset(
    {"event_id", "timestamp", "level", "platform", "message", "logger", "fingerprint", "tags", "extra"}
    | {"release", "environment"}
)


def kept_fields(event: Any, hint: Any) -> Any:
    """Return the event with a closed list of fields: what the package adds of itself stays here."""
    return {name: value for name, value in event.items() if name in FIELDS}


class SentryReporter:
    """Reports the problems that are new or have grown. Call `report` now and then; `put` sends a message."""

    def __init__(self, dsn: str, environment: str, put: Callable[[Post], None]) -> None:
        self._reported: dict[int, tuple[float, int]] = {}  # by number: when, and the count
        self._client = sentry_sdk.Client(
            dsn=dsn,
            environment=environment,
            release=f"dub5@{VERSION}",
            server_name="",
            transport=_transport(put),
            before_send=kept_fields,
            default_integrations=False,
            auto_enabling_integrations=False,
            enable_backpressure_handling=False,
            include_local_variables=False,
            include_source_context=False,
            send_client_reports=False,
            auto_session_tracking=False,
            max_breadcrumbs=0,
            attach_stacktrace=False,
            spotlight=False,
            debug=False,
        )
        self._scope = sentry_sdk.Scope()

    def report(self, problems: list[Problem], now: float) -> None:
        """Send an event for each group that has grown since its last one. `now`: epoch seconds."""
        due = [problem for problem in problems if self._is_due(problem, now)]
        for problem in due[:AT_ONCE]:
            self._reported[problem.number] = now, problem.count
            self._client.capture_event(_event(problem), scope=self._scope)
        known = {problem.number for problem in problems}
        for number in self._reported.keys() - known:
            del self._reported[number]

    def close(self) -> None:
        """Send nothing any more."""
        self._client.close(timeout=0)

    def _is_due(self, problem: Problem, now: float) -> bool:
        at, count = self._reported.get(problem.number, (float("-inf"), 0))
        return problem.count > count and now - at >= AGAIN_S


def _event(problem: Problem) -> Any:
    fingerprint = problem.fingerprint
    words = [fingerprint.what, fingerprint.code, fingerprint.reason, fingerprint.route, fingerprint.target]
    tags: Mapping[str, str] = {name: text for name, text in fingerprint._asdict().items() if text}
    return {
        "level": "warning"
        if fingerprint.what == "degraded"
        else "fatal"
        if fingerprint.what == CRASH
        else "error",
        "logger": "dub5.problems",
        "message": ": ".join(word for word in words if word),
        "fingerprint": [fingerprint.id],
        "tags": tags,
        "extra": {
            "count": problem.count,
            "people": count_people(problem.people),
            "anonymous": problem.anonymous,
            "first": _date(problem.first),
            "last": _date(problem.last),
            "requests": list(problem.requests),
        },
    }


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _transport(put: Callable[[Post], None]) -> type[Transport]:
    """Return a transport of the package that gives each envelope to `put`."""

    class WireTransport(Transport):
        """A transport without a thread and without a client of its own."""

        def capture_envelope(self, envelope: Envelope) -> None:
            """Give an envelope to the wire, later."""
            assert self.parsed_dsn is not None, "the settings name a DSN"
            auth = self.parsed_dsn.to_auth(CLIENT)
            headers = {
                "content-type": "application/x-sentry-envelope",
                "user-agent": CLIENT,
                "x-sentry-auth": auth.to_header(),
            }
            put(Post("problem", auth.get_api_url(EndpointType.ENVELOPE), headers, envelope.serialize()))

    return WireTransport
