"""`dub5 playground`: simulated providers and the service over them, running until stopped.

What a browser knows of it is there again at the next start: its conversations, its session, the address.

    data/dub5.db           the conversations and documents
    data/session.secret    by which the service knows the cookie again (service/config/session_secret.py)
    data/port              the port of the last start, if it was not the default
"""

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path
from urllib.parse import quote

from rich.console import Console

from dub5.chaos.engines.processes import NotStarted, run_until_stopped
from dub5.chaos.engines.stack import Stack, free_port, stack
from dub5.chaos.scenario.model import Topology

POLL_S = 0.5
DEFAULT_PORT = 8080
PORT_MAX = 65_535
PATIENCE_S = 1.0  # for the database; a service takes 50 ms
TOPOLOGY = Topology(timeouts={"first_token_s": 5.0, "whole_answer_s": 15.0, "total_s": 60.0})


def serve(port: int | None, data: Path, console: Console) -> int:
    """Run until Ctrl-C or SIGTERM. Return the exit code. Raises NotStarted.

    `port`: None is that of the last start, or the default. `data`: the folder of what is kept.
    """
    _make_folder(data)
    return run_until_stopped(_serve(_choose_port(port, data), data, console))


async def _serve(port: int, data: Path, console: Console) -> int:
    def print_line(line: str) -> None:
        console.print(line, highlight=False)

    async with stack(TOPOLOGY, print_line, port=port, more_settings=_kept_in(data)) as running:
        console.print(_welcome(running, data), highlight=False, markup=False, soft_wrap=True)
        while not running.dead():
            await asyncio.sleep(POLL_S)
        for dead in running.dead():
            console.print(
                f"{dead.name} ended unexpectedly.\n{dead.log_tail()}\n"
                f"Start it again: what was kept in {data} is there.",
                highlight=False,
                markup=False,
            )
    return 3


def _make_folder(data: Path) -> None:
    """Make the folder, for its user alone. Raises NotStarted if nothing can be written there."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data):
            pass
    except OSError as error:
        raise NotStarted(
            f"Conversations cannot be kept in {data} ({error.strerror}): name another folder with --data."
        ) from None


def _choose_port(wanted: int | None, data: Path) -> int:
    """Return a free port: the wanted one, else that of the last start, else the default, else any.

    It is remembered, as a page that is open in a browser asks it again.
    """
    file = data / "port"
    known = _read_port(file)
    port = free_port(known if wanted is None else wanted)
    if port != known:
        file.write_text(f"{port}\n", encoding="ascii")
    return port


def _read_port(file: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        if 0 < (port := int(file.read_text(encoding="ascii"))) <= PORT_MAX:
            return port
    return DEFAULT_PORT


def _kept_in(data: Path) -> str:
    """Return the settings that keep sessions, conversations and documents in this folder.

    Somebody who looks around on a busy machine waits for its disk rather than read that nothing can be kept.
    """
    url = f"sqlite:///{quote(str((data / 'dub5.db').resolve()))}"
    database = f"[database]\nurl = {json.dumps(url)}\npatience_s = {PATIENCE_S}\n"
    return f"\n[session]\n\n[conversation]\n\n[documents]\n\n{database}"


def _welcome(running: Stack, data: Path) -> str:
    return f"""
Page:         {running.url}/
Send a chat:  curl -N {running.url}/v1/chat/completions -H 'content-type: application/json' \\
                -d '{{"model": "chat", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
Add a fault:  curl -X PUT {running.admin}/faults/one -H 'authorization: Bearer {running.token}' \\
                -d '{{"kind": "status", "status": 530, "body": "cloudflare_1033_text"}}'
Remove it:    curl -X DELETE {running.admin}/faults/one -H 'authorization: Bearer {running.token}'
Kept:         conversations, documents, and the secret of sessions, in {data}: the next start has them again.

Ctrl-C stops everything.
"""
