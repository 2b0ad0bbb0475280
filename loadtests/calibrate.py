"""Calibration of the load client: a stream whose pieces come 50 ms apart must be reported so. Call `check()`.

Every load run begins with this check, since client libraries get first tokens wrong: a client that waits for
full blocks reports the end of a short answer as its beginning. The check uses plain sockets and threads,
which under Locust are gevent's, as they are for the measured requests.
"""

import socket
import threading
import time

import msgspec

from dub5.loadtests.client import LoadClient
from dub5.loadtests.mix import RequestKind
from dub5.loadtests.sample import SampleOutcome
from dub5.simulators.answers import Proof

PIECES = 6
GAP_S = 0.05
SLACK_S = 0.04  # tolerance; a client that waits for full blocks is off by 250 ms, every time
ATTEMPTS = 4  # a busy machine may be off now and then
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def check() -> str:
    """Return what is wrong with the times of LoadClient, or "".

    Takes a third of a second if they are right.
    """
    for _ in range(ATTEMPTS):
        problem = _measure()
        if not problem:
            break
    return problem


def _measure() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_serve, args=(listener,), daemon=True)
        server.start()
        client = LoadClient(
            f"http://127.0.0.1:{listener.getsockname()[1]}", judge=lambda text, prompt: Proof.WHOLE
        )
        kind = RequestKind(name="calibrate", share=1)
        sample = client.ask(kind, {"messages": [{"role": "user", "content": "?"}]}, client.now_s())
        client.close()
        server.join(5)
    if sample.outcome is not SampleOutcome.COMPLETE or sample.first_token_s is None:
        return f"the stream was judged {sample.outcome}: {sample.why}"
    spans = {
        "first token": (sample.first_token_s - sample.started_s, GAP_S),
        "gap": (sample.longest_gap_s, GAP_S),
        "end": (sample.ended_s - sample.started_s, PIECES * GAP_S),
    }
    wrong = [
        f"{name} {span_s * 1000:.0f} ms, expected {true_s * 1000:.0f} ms"
        for name, (span_s, true_s) in spans.items()
        if not true_s - 0.01 <= span_s <= true_s + SLACK_S
    ]
    return "; ".join(wrong)


def _serve(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv(65_536)
        connection.sendall(HEAD)
        for i in range(PIECES):
            time.sleep(GAP_S)
            connection.sendall(_piece({"delta": {"content": f"{i} "}}))
        connection.sendall(_piece({"finish_reason": "stop"}) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def _piece(choice: object) -> bytes:
    return _chunk(b"data: " + msgspec.json.encode({"choices": [choice]}) + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
