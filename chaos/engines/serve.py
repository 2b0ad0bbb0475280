"""`dub5 playground`: simulated providers and the service over them, running until stopped."""

import asyncio

from rich.console import Console

from dub5.chaos.engines.processes import run_until_stopped
from dub5.chaos.engines.stack import Stack, free_port, stack
from dub5.chaos.scenario.model import Topology

POLL_S = 0.5
TOPOLOGY = Topology(timeouts={"first_token_s": 5.0, "whole_answer_s": 15.0, "total_s": 60.0})


def serve(port: int, console: Console) -> int:
    """Run until Ctrl-C or SIGTERM. Return the exit code."""
    return run_until_stopped(_serve(free_port(port), console))


async def _serve(port: int, console: Console) -> int:
    def print_line(line: str) -> None:
        console.print(line, highlight=False)

    async with stack(TOPOLOGY, print_line, port=port) as running:
        console.print(_welcome(running), highlight=False, markup=False, soft_wrap=True)
        while not running.dead():
            await asyncio.sleep(POLL_S)
        for dead in running.dead():
            console.print(
                f"{dead.name} ended unexpectedly.\n{dead.log_tail()}", highlight=False, markup=False
            )
    return 3


def _welcome(running: Stack) -> str:
    return f"""
Page:         {running.url}/
Send a chat:  curl -N {running.url}/v1/chat/completions -H 'content-type: application/json' \\
                -d '{{"model": "chat", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
Add a fault:  curl -X PUT {running.admin}/faults/one -H 'authorization: Bearer {running.token}' \\
                -d '{{"kind": "status", "status": 530, "body": "cloudflare_1033_text"}}'
Remove it:    curl -X DELETE {running.admin}/faults/one -H 'authorization: Bearer {running.token}'

Ctrl-C stops everything.
"""
