"""The admin API works for holders of the token, and rejects all other calls."""

import json
from collections.abc import Generator
from typing import Any, cast

import pytest

from dub5.simulators.provider import make
from dub5.simulators.script import Action, SimRequest
from dub5.simulators.server.admin import AdminApi
from dub5.simulators.settings import build
from tests.support.play import PlayedScript, play, post

GOOD = {"host": "127.0.0.1:9000", "authorization": "Bearer secret"}
CUT = {"kind": "cut", "after_tokens": 5, "how": "reset"}


@pytest.fixture
def admin() -> AdminApi:
    providers, ledger = make(build({}, latency="zero"), now=lambda: 0.0)
    return AdminApi(providers, ledger, "secret")


def call(
    admin: AdminApi, method: str, url: str, body: object = b"", headers: dict[str, str] | None = None
) -> PlayedScript:
    path, _, query = url.partition("?")
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return play(admin(SimRequest(method, path, GOOD if headers is None else headers, sent, query)))


class TestWho:
    @pytest.mark.parametrize(
        "headers, status",
        [
            ({}, 200),
            ({"authorization": "bearer secret"}, 200),
            ({"host": "localhost:1"}, 200),
            ({"host": "[::1]:1"}, 200),
            ({"origin": "http://127.0.0.1:9000"}, 200),
            ({"authorization": ""}, 401),
            ({"authorization": "Bearer secre"}, 401),
            ({"authorization": "Basic secret"}, 401),
            ({"host": "evil.example"}, 403),
            ({"host": "127.0.0.1.evil.example"}, 403),
            ({"host": "[::1"}, 403),
            ({"host": ""}, 403),
            ({"origin": "http://evil.example"}, 403),
            ({"origin": "http://localhost:9000"}, 403),
            ({"origin": "null"}, 403),
        ],
        ids=str,
    )
    def test_who_may(self, admin: AdminApi, headers: dict[str, str], status: int) -> None:
        """Only calls with the token, to a loopback name and not from a page of another origin are
        accepted."""
        answer = call(admin, "GET", "/faults", headers={**GOOD, **headers})
        assert answer.status == status
        assert ("error" in answer.json) == (status != 200)


class TestFaults:
    def test_set_look_heal(self, admin: AdminApi) -> None:
        """A fault set here applies to the provider, is listed with its counts, and can be cleared."""
        assert call(admin, "PUT", "/faults/one", {"kind": "status", "status": 530}).json == {
            "provider": "one",
            "faults": [{"kind": "status", "status": 530, "share": 1.0, "seen": 0, "applied": 0}],
        }
        assert play(admin.providers["one"](post("openai"))).status == 530
        assert play(admin.providers["two"](post("mistral"))).status == 200

        told = call(admin, "GET", "/faults").json
        assert (told["one"][0]["seen"], told["one"][0]["applied"]) == (1, 1)
        assert told["two"] == told["three"] == []

        call(admin, "PUT", "/faults/one", CUT)
        assert len(call(admin, "DELETE", "/faults/one?kind=cut").json["faults"]) == 1
        assert call(admin, "DELETE", "/faults/one").json == {"provider": "one", "faults": []}
        assert play(admin.providers["one"](post("openai"))).status == 200

    def test_list(self, admin: AdminApi) -> None:
        """A list replaces all faults; if one is invalid, nothing changes."""
        call(admin, "PUT", "/faults/one", {"kind": "empty"})
        answer = call(admin, "PUT", "/faults/one", [CUT, {"kind": "slow", "factor": 3}])
        assert [fault["kind"] for fault in answer.json["faults"]] == ["cut", "slow"]

        assert call(admin, "PUT", "/faults/one", [{"kind": "empty"}, {"kind": "x"}]).status == 400
        assert len(call(admin, "GET", "/faults").json["one"]) == 2


class TestLimitsAndCapacity:
    def test_limits(self, admin: AdminApi) -> None:
        """New limits hold from the next request on; deleting them restores those of the start."""
        answer = call(admin, "PUT", "/limits/one", {"requests_per_day": 1, "retry_after": 7})
        assert answer.json["limits"]["buckets"][0]["remaining"] == 1
        assert [play(admin.providers["one"](post("openai"))).status for _ in range(2)] == [200, 429]
        told = call(admin, "GET", "/limits").json
        assert (told["one"]["requests_per_day"], told["one"]["buckets"][0]["remaining"]) == (1, 0)
        assert told["two"]["buckets"] == []
        assert call(admin, "DELETE", "/limits/one").json["limits"]["buckets"] == []
        assert play(admin.providers["one"](post("openai"))).status == 200

    def test_capacity(self, admin: AdminApi) -> None:
        """A new capacity holds at once, and requests with a slot keep it; deleting it restores that of the
        start."""
        at_work = [
            cast(Generator[Action, None, None], admin.providers["one"](post("openai"))) for _ in range(2)
        ]
        for script in at_work:
            next(script)
        answer = call(admin, "PUT", "/capacity/one", {"slots": 1, "queue_max": 0})
        assert answer.json["capacity"] == {
            "slots": 1,
            "queue_max": 0,
            "abandons": True,
            "busy": 2,
            "unseen": 0,
            "waiting": 0,
        }
        assert play(admin.providers["one"](post("openai"))).status == 503
        for script in at_work:
            script.close()
        assert call(admin, "GET", "/capacity/one").json["capacity"]["busy"] == 0
        assert play(admin.providers["one"](post("openai"))).status == 200
        assert call(admin, "DELETE", "/capacity/one").json["capacity"]["slots"] == 0

    def test_revoked_keys(self, admin: AdminApi) -> None:
        """A revoked key is refused from the next request on, others are not; deleting the list accepts it
        again."""

        def status(key: str) -> int:
            return play(admin.providers["one"](post("openai", authorization=f"Bearer {key}"))).status

        assert call(admin, "PUT", "/revoked/one", ["sk-old"]).json["revoked"] == ["sk-old"]
        assert (status("sk-old"), status("sk-new")) == (401, 200)
        assert call(admin, "GET", "/revoked").json == {"one": ["sk-old"], "two": [], "three": []}
        assert call(admin, "DELETE", "/revoked/one").json["revoked"] == []
        assert status("sk-old") == 200


@pytest.mark.parametrize(
    "method, url, body, status, words",
    [
        ("GET", "/", b"", 404, "valid calls: GET, PUT and DELETE of /faults"),
        ("GET", "/faults/one/cut", b"", 404, "valid calls: GET, PUT and DELETE of /faults"),
        ("PUT", "/faults/four", CUT, 404, "no provider `four`; providers: one, two, three"),
        ("POST", "/faults/one", b"", 405, "allows GET, PUT, DELETE, not POST"),
        ("PUT", "/limits", {}, 405, "allows GET, not PUT"),
        ("PUT", "/limits/one", {"requests_per_hour": 1}, 400, "Valid fields: requests_per_second"),
        ("PUT", "/limits/one", {"organisation": "x"}, 400, "the organisation is ``"),
        ("PUT", "/capacity/one", {"slots": -1}, 400, "Valid fields: slots, queue_max, abandons"),
        ("PUT", "/capacity/one", [], 400, "Expected `object`"),
        ("PUT", "/revoked/one", {"key": "sk-old"}, 400, "a list of keys"),
        ("PUT", "/faults/one", {"kind": "unreachable", "how": "x"}, 400, "unreachable: Invalid enum value"),
        ("POST", "/faults", b"", 405, "allows GET"),
        ("DELETE", "/ledger", b"", 405, "allows GET"),
        ("PUT", "/faults/one", b"{", 400, "the body is not valid JSON"),
        ("PUT", "/faults/one", b"\xff", 400, "the body is not valid JSON"),
        ("PUT", "/faults/one", 5, 400, "a fault is an object"),
        ("PUT", "/faults/one", {"kind": "sttaus"}, 400, "unknown kind `sttaus`; valid kinds: status"),
        ("GET", "/ledger?since=x", b"", 400, "since must be a whole number"),
        ("GET", "/ledger?provider=four", b"", 404, "no provider `four`"),
    ],
)
def test_wrong_calls(admin: AdminApi, method: str, url: str, body: Any, status: int, words: str) -> None:
    """An invalid call is answered with what is valid."""
    answer = call(admin, method, url, body)
    assert (answer.status, words in answer.json["error"]) == (status, True)
    assert ("allow" in answer.headers) == (status == 405)


def test_ledger(admin: AdminApi) -> None:
    """Lines come in pages; `last` is where the next page begins."""
    for _ in range(3):
        play(admin.providers["one"](post("openai")))
        play(admin.providers["three"](post("anthropic")))

    first = call(admin, "GET", "/ledger?provider=three&limit=2").json
    second = call(admin, "GET", f"/ledger?provider=three&limit=2&since={first['last']}").json

    assert [line["n"] for line in first["lines"]] == [2, 4] and first["more"]
    assert [line["n"] for line in second["lines"]] == [6] and not second["more"]
    assert second["last"] == 6
    assert first["lines"][0]["ended"] == "end"
    assert first["open"] == {"one": 0, "three": 0}
