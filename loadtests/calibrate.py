"""Calibration of the load clients: pieces that come 50 ms apart must be reported so. Call `check()`.

Every load run begins with this check, since client libraries get first tokens wrong: a client that waits for
full blocks reports the end of a short answer as its beginning. Streams and WebSockets are checked, over plain
sockets and threads, which under Locust are gevent's, as they are for the measured requests.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from websockets.sync.server import ServerConnection, serve

from dub5.loadtests.carriers import PROTOCOL, Credentials, SocketCarrier, TurnQuestion
from dub5.loadtests.client import LoadClient
from dub5.loadtests.mix import RequestKind
from dub5.loadtests.sample import SampleOutcome
from dub5.loadtests.talk import TimedTurn, TurnPlan
from dub5.simulators.answers import Proof

PIECES = 6
GAP_S = 0.05
SLACK_S = 0.04  # tolerance; a client that waits for full blocks is off by 250 ms, every time
ATTEMPTS = 4  # a busy machine may be off now and then
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def check() -> str:
    """Return what is wrong with the times of the clients, or "".

    Takes two thirds of a second if they are right.
    """
    return _repeated(_measure_stream) or _repeated(_measure_socket)


def _repeated(measure: Callable[[], str]) -> str:
    for _ in range(ATTEMPTS):
        problem = measure()
        if not problem:
            break
    return problem


def _measure_stream() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_send_stream, args=(listener,), daemon=True)
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
    end_s = sample.ended_s - sample.started_s
    return _wrong("stream", sample.first_token_s - sample.started_s, sample.longest_gap_s, end_s)


def _measure_socket() -> str:
    with _socket_server() as port:
        carrier = SocketCarrier(f"http://127.0.0.1:{port}", Credentials({}))
        carrier.connect()  # as it is from a person's second question on
        turn = TimedTurn(carrier, TurnPlan())
        outcome, why = turn.read(TurnQuestion("q", "?", "chat"), lambda text, prompt: Proof.WHOLE)
        ended_s = time.perf_counter()
        carrier.close()
    if outcome is not SampleOutcome.COMPLETE or turn.first_token_s is None:
        return f"the WebSocket was judged {outcome}: {why}"
    first_s = turn.first_token_s - turn.started_s
    return _wrong("WebSocket", first_s, turn.longest_gap_s, ended_s - turn.started_s)


def _wrong(what: str, first_token_s: float, gap_s: float, end_s: float) -> str:
    spans = {
        "first token": (first_token_s, GAP_S),
        "gap": (gap_s, GAP_S),
        "end": (end_s, PIECES * GAP_S),
    }
    wrong = [
        f"{name} {span_s * 1000:.0f} ms, expected {true_s * 1000:.0f} ms"
        for name, (span_s, true_s) in spans.items()
        if not true_s - 0.01 <= span_s <= true_s + SLACK_S
    ]
    return f"{what}: {'; '.join(wrong)}" if wrong else ""


def _send_stream(listener: socket.socket) -> None:
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


@contextmanager
def _socket_server() -> Iterator[int]:
    with serve(_send_turn, "127.0.0.1", 0, subprotocols=[PROTOCOL], compression=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join(5)


def _send_turn(connection: ServerConnection) -> None:
    def send(**message: object) -> None:
        connection.send(msgspec.json.encode({"turn": "t", **message}), text=True)

    connection.recv()
    send(type="accepted", id="q", conversation="c", kept=True)
    send(type="begin", seq=0)
    for i in range(PIECES):
        time.sleep(GAP_S)
        send(type="delta", seq=2 * (i + 1), text=f"{i} ")
    send(type="end", seq=2 * PIECES, outcome="complete", kept=True)
