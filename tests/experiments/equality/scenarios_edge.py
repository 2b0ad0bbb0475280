"""The edge: paths, methods, bodies, keys, orders, health and figures."""

import json

from tests.experiments.equality.scenario import (
    ADMIN_TOKEN,
    CHAT,
    JSON,
    Ask,
    Drain,
    Reload,
    Scenario,
    Together,
    Wait,
    chat,
    get,
    stream,
    warm,
)

CACHED = "[route.cache]\nenabled = true\n"
CALLERS = '[server]\ncaller_keys_env = ["CALLER_A", "CALLER_B"]\n'
ADMIN = '[admin]\ntoken_env = "ADMIN_TOKEN"\n'
SMALL = "[server]\nrequest_bytes_max = 2000\nheaders_max = 10\njson_depth_max = 8\n"
INVALIDATE = "/admin/cache/invalidate"
BODIES = (
    b"",
    b"{",
    b"[]",
    b"\xff\xfe{}",
    b'{"messages": []}',
    b'{"model": "chat"}',
    b'{"model": "chat", "messages": []}',
    b'{"model": 3, "messages": []}',
    b'{"model": "chat", "messages": [{"role": "pirate", "content": "Hi"}]}',
    b'{"model": "chat", "messages": [{"role": "user", "content": 7}]}',
    b'{"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "stream": "yes"}',
    b'{"model": "gpt-9", "messages": [{"role": "user", "content": "Hi"}]}',
    b'{"model": "chat", "x": ' + b"[" * 9 + b"]" * 9 + b"}",
    json.dumps({"model": "chat", "messages": [{"role": "user", "content": "x" * 2000}]}).encode(),
)


def _sent(body: bytes, path: str = CHAT, **headers: str) -> Ask:
    return Ask(path=path, body=body).by(content_type=JSON, **headers)


def _order(token: str = ADMIN_TOKEN, body: bytes = b'{"everything": true}', **headers: str) -> Ask:
    return _sent(body, INVALIDATE, **{"host": "localhost", "authorization": f"Bearer {token}", **headers})


EDGE = (
    Scenario("bodies", tuple(map(_sent, BODIES)), more=SMALL),
    Scenario(
        "headers",
        (
            chat().by(x_deadline_ms="soon"),
            chat().by(x_deadline_ms="0"),
            chat().by(x_dub5_delivery="someday"),
            Ask(body=b"{}").by(content_type="text/plain"),
            chat().by(**{f"x_{n}": "v" for n in range(11)}),
        ),
        more=SMALL,
    ),
    Scenario(
        "paths",
        (
            get("/nope"),
            get("/v1/messages", "POST"),
            get("/web/nope.js"),
            get(CHAT),
            get("/v1/models", "DELETE"),
            get(CHAT, "OPTIONS"),
            get("/health?deep=perhaps"),
            get("/v1/models"),
            get("/v1/models/chat"),
            get("/v1/models/gpt-9"),
            get("/livez"),
            get("/readyz"),
            get("/health"),
            get("/health?deep=true"),
            get("/readyz", "HEAD"),
        ),
    ),
    Scenario(
        "figures",
        (
            *warm(3, chat()),
            *warm(2, stream()),
            chat(),
            get("/status"),
            get("/metrics"),
            get("/health?deep=true"),
        ),
        faults={"one": ("status:530",)},
    ),
    Scenario(
        "callers",
        (
            chat(),
            chat().by(authorization="Bearer wrong"),
            chat().by(authorization="caller-a"),
            chat().by(authorization="Bearer caller-a"),
            get("/status"),
            get("/livez"),
        ),
        more=CALLERS,
    ),
    Scenario(
        "orders",
        (
            *warm(1, chat(temperature=0)),
            chat(temperature=0),
            _order(),
            chat(temperature=0),
            _order("wrong"),
            _order(host="dub5.example"),
            _order(body=b'{"nothing": 1}'),
            _order(body=b'{"route": "chat"}'),
        ),
        route=CACHED,
        more=ADMIN,
    ),
    Scenario(
        "isolated",
        (
            chat(),
            Reload(provider={"one": "isolated = true"}),
            chat(),
            Reload(provider={"one": "isolated = true", "two": "isolated = true"}),
            chat(),
            get("/health?deep=true"),
        ),
    ),
    Scenario(
        "drain",
        (
            Together(
                (stream(), stream("Slowly").at(0.5), Drain(1.0), get("/readyz").at(1.5), chat().at(1.5))
            ),
            Wait(1.0),
            get("/livez"),
        ),
        faults={"one": ("slow:30",)},
        more="[server]\ndrain_s = 2.0\n",
    ),
)
