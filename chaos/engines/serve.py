"""Simulated providers and the service over them, kept running for a person to look at."""

import asyncio

from rich.console import Console

from dub5.chaos.engines.processes import run_until_stopped
from dub5.chaos.engines.stack import Stack, free_port, stack
from dub5.chaos.scenario.model import Topology

WATCH_S = 0.5
TOPOLOGY = Topology(timeouts={"first_token_s": 5.0, "whole_answer_s": 15.0, "total_s": 60.0})


def serve(port: int, console: Console) -> int:
    """Runs until Ctrl-C or SIGTERM. Returns the exit code."""
    return run_until_stopped(_serve(free_port(port), console))


async def _serve(port: int, console: Console) -> int:
    def print_line(line: str) -> None:
        console.print(line, highlight=False)

    async with stack(TOPOLOGY, print_line, port=port) as running:
        console.print(_welcome(running), highlight=False, markup=False, soft_wrap=True)
        while not running.dead():
            await asyncio.sleep(WATCH_S)
        for dead in running.dead():
            console.print(
                f"{dead.name} has ended by itself.\n{dead.log_tail()}", highlight=False, markup=False
            )
    return 3


def _welcome(running: Stack) -> str:
    return f"""
The page:     {running.url}/
Ask it:       curl -N {running.url}/v1/chat/completions -H 'content-type: application/json' \\
                -d '{{"model": "chat", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
Break one:    curl -X PUT {running.admin}/faults/one -H 'authorization: Bearer {running.token}' \\
                -d '{{"kind": "status", "status": 530, "body": "cloudflare_1033_text"}}'
Heal it:      curl -X DELETE {running.admin}/faults/one -H 'authorization: Bearer {running.token}'

Ctrl-C stops all of it.
"""
