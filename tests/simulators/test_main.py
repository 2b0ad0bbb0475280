"""The simulators as a process: one line when it is ready, faults over HTTP, and a reliable end."""

import json
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.play import ASK

END_S = 10.0


@contextmanager
def simulators(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    command = [sys.executable, "-m", "dub5.simulators", "--latency", "zero", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def call(method: str, url: str, body: object = None, token: str = "") -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"authorization": f"Bearer {token}"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=END_S) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_from_start_to_end(tmp_path: Path) -> None:
    """The process starts with a file, takes and clears faults over HTTP, keeps its ledger, and ends by
    SIGTERM."""
    file = tmp_path / "sim.toml"
    file.write_text('[[provider]]\nname = "one"\npersona = "openai"\nmodels = ["m-sim"]\n')
    with simulators("--config", str(file), "--provider", "two=mistral") as (process, ready):
        assert {name: said["persona"] for name, said in ready["providers"].items()} == {
            "one": "openai",
            "two": "mistral",
        }
        chat = f"{ready['providers']['one']['url']}/v1/chat/completions"
        admin, token = ready["admin"], ready["token"]

        assert call("POST", chat, ASK)[0] == 200
        fault = {"kind": "status", "status": 530, "body": "cloudflare_1033_text"}
        assert call("PUT", f"{admin}/faults/one", fault, token)[0] == 200
        assert call("POST", chat, ASK) == (530, b"error code: 1033")
        assert call("DELETE", f"{admin}/faults/one", None, token)[0] == 200
        assert call("POST", chat, ASK)[0] == 200
        assert call("GET", f"{admin}/ledger", None, "wrong")[0] == 401
        lines = call("GET", f"{admin}/ledger", None, token)[1]["lines"]
        assert [line["status"] for line in lines] == [200, 530, 200]

        process.send_signal(signal.SIGTERM)
        assert process.wait(END_S) == 0


def test_tls(tmp_path: Path) -> None:
    """With `tls` a provider's url is https, clients that trust the CA connect, and handshakes can fail."""
    file = tmp_path / "sim.toml"
    file.write_text('[[provider]]\nname = "one"\npersona = "openai"\ntls = true\n')
    with simulators("--config", str(file), "--provider", "two=mistral") as (_, ready):
        told, admin, token = ready["providers"]["one"], ready["admin"], ready["token"]
        assert "ca_file" not in ready["providers"]["two"]
        trusting = ssl.create_default_context(cafile=told["ca_file"])

        def look() -> int:
            with urllib.request.urlopen(f"{told['url']}/v1/models", timeout=END_S, context=trusting) as reply:
                return int(reply.status)

        assert look() == 200
        fault = {"kind": "unreachable", "stage": "tls", "how": "expired", "first": 1}
        assert call("PUT", f"{admin}/faults/one", fault, token)[0] == 200
        with pytest.raises(urllib.error.URLError, match="certificate has expired"):
            look()
        assert look() == 200
        status, why = call("PUT", f"{admin}/faults/two", fault, token)
        assert status == 400 and b"start it with `tls = true`" in why


def test_fault_that_cannot_be_done(tmp_path: Path) -> None:
    """A fault in the file that cannot be played is reported at the start."""
    file = tmp_path / "sim.toml"
    file.write_text('[[fault]]\nkind = "unreachable"\nstage = "resolve"\n')
    command = [sys.executable, "-m", "dub5.simulators", "--config", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=END_S, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "a fault of `one`: unreachable: the client looks up the name before" in ended.stderr


def test_leash() -> None:
    """With --leash the process ends when its stdin ends."""
    with simulators("--leash") as (process, _):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(END_S) == 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--provider", "one=opnai"], "did you mean `openai`?"),
        (["--config", "/nowhere.toml"], "cannot read /nowhere.toml"),
    ],
)
def test_cannot_start(arguments: list[str], words: str) -> None:
    """An invalid start is explained in one line, with exit code 2."""
    ended = subprocess.run(
        [sys.executable, "-m", "dub5.simulators", *arguments],
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert words in ended.stderr and ended.stderr.count("\n") == 1


def test_port_is_taken() -> None:
    """A port in use is named."""
    with simulators("--provider", "one=openai") as (_, ready):
        port = ready["providers"]["one"]["url"].rpartition(":")[2]
        command = [sys.executable, "-m", "dub5.simulators", "--port-base", port]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=END_S, check=False)
    assert ended.returncode == 2
    assert port in ended.stderr and "address already in use" in ended.stderr
