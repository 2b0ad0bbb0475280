"""`python -m dub5.simulators`: simulated providers in one process, with an admin API. See `--help`."""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Sequence

from dub5.simulators.faults.answers import BadFault
from dub5.simulators.latency import PRESETS
from dub5.simulators.personas import PERSONAS
from dub5.simulators.provider import make
from dub5.simulators.server.admin import AdminApi
from dub5.simulators.server.sockets import serve
from dub5.simulators.server.tls import NoCertificates, certificates
from dub5.simulators.settings import BadSettings, SimulatorSettings, build, read_file

HOST = "127.0.0.1"

EXAMPLES = f"""
When everything listens, one line of JSON on stdout says where:
  {{"providers": {{"one": {{"url": "http://127.0.0.1:9001", "persona": "openai"}},
   ...}}, "admin": "...", "token": "..."}}
For an OpenAI client append /v1 to the url; the packages of Anthropic and Mistral take it as it is.

Set a fault, read the ledger, clear the fault ($ADMIN and $TOKEN are from that line):
  curl -X PUT $ADMIN/faults/one -H "Authorization: Bearer $TOKEN" \\
       -d '{{"kind": "status", "status": 530, "body": "cloudflare_1033_text"}}'
  curl "$ADMIN/ledger?provider=one" -H "Authorization: Bearer $TOKEN"
  curl -X DELETE $ADMIN/faults/one -H "Authorization: Bearer $TOKEN"

Faults; each takes "share" (of the requests, 0 to 1), "first" (only the first n requests), "model", and a time
window ("at_s", "for_s", "every_s"; or "up_s" and "down_s" for drawn outages):
  {{"kind": "status", "status": 429, "retry_after_s": 2}}   {{"kind": "slow", "factor": 10}}
  {{"kind": "cut", "after_tokens": 5, "how": "reset"}}      {{"kind": "garbage", "where": "sse"}}
  {{"kind": "reset", "before": "head"}}                     {{"kind": "close", "before": "head"}}
  {{"kind": "stall", "before": "first_token", "s": 30}}     {{"kind": "empty"}}
  {{"kind": "broken", "how": "chunk"}}                      {{"kind": "notice"}}
  {{"kind": "unreachable", "stage": "connect", "how": "refused"}}   new connections; with "closes_open" all
  {{"kind": "sequence", "steps": ["status:500", "ok", "cut:5:reset"], "loop": true}}   one step per request
docs/prove/simulators.md describes faults, limits, capacity and edges. Change the capacity (or the limits):
  curl -X PUT $ADMIN/capacity/one -H "Authorization: Bearer $TOKEN" -d '{{"slots": 4, "queue_max": 20}}'

A file for --config; every setting is optional:
  seed = 1
  latency = "frontier"          # {", ".join(PRESETS)}
  [[provider]]
  name = "one"
  persona = "openai"            # {", ".join(PERSONAS)}
  port = 9001
  words = 60                    # words of an answer, unless max_tokens is smaller
  key = "sk-test"               # the only key that is accepted
  models = ["gpt-sim"]
  limits = {{ requests_per_minute = 500 }}
  tls = false                   # true: https; the line on stdout names the `ca_file` to trust
  [[provider.fault]]
  kind = "status"
  status = 500
  share = 0.05
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, with --leash also until stdin ends. Return the exit code."""
    options = _parser().parse_args(argv)
    try:
        settings = build(
            read_file(options.config) if options.config else {},
            options.provider,
            options.require_key,
            port_base=options.port_base,
            admin_port=options.admin_port,
            latency=options.latency,
            words=options.words,
            seed=options.seed,
        )
        asyncio.run(run(settings, leash=options.leash))
    except (BadSettings, NoCertificates) as error:
        print(f"simulators: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"simulators: cannot listen: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


async def run(settings: SimulatorSettings, *, leash: bool = False) -> None:
    """Serve until a signal arrives. Raises OSError if a port is taken, BadSettings, NoCertificates."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    started_s = loop.time()
    providers, ledger = make(settings, now=lambda: loop.time() - started_s, epoch_s=int(time.time()))
    async with contextlib.AsyncExitStack() as stack:
        tls = stack.enter_context(certificates()) if any(p.tls for p in settings.providers) else None
        ready = {}
        for wanted in settings.providers:
            certificate = tls if wanted.tls else None
            try:
                server = await stack.enter_async_context(
                    serve(providers[wanted.name], host=HOST, port=wanted.port, tls=certificate)
                )
            except BadFault as error:
                raise BadSettings(f"a fault of `{wanted.name}`: {error}") from None
            ready[wanted.name] = {"url": server.url, "persona": wanted.persona}
            if certificate is not None:
                ready[wanted.name]["ca_file"] = certificate.ca_file
        token = secrets.token_urlsafe(24)
        admin = AdminApi(providers, ledger, token)
        server = await stack.enter_async_context(serve(admin, host=HOST, port=settings.admin_port))
        print(json.dumps({"providers": ready, "admin": server.url, "token": token}), flush=True)
        if leash:
            threading.Thread(target=_stop_with_stdin, args=(loop, stop), daemon=True).start()
        await stop.wait()


def _stop_with_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set `stop` when stdin ends. Run it in a thread: stdin may be a file, a pipe or a terminal."""
    while os.read(0, 65536):  # by its number: the thread is never joined, so it must not hold sys.stdin
        pass
    loop.call_soon_threadsafe(stop.set)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dub5.simulators",
        description="Run simulated AI providers on 127.0.0.1: real wire formats, faults, a ledger.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--provider",
        action="append",
        default=[],
        metavar="NAME=PERSONA",
        help="add a provider (repeatable; default: one=openai, two=mistral, three=anthropic); "
        f"personas: {', '.join(PERSONAS)}",
    )
    add("--config", metavar="FILE", help="read settings from a TOML file; options of the command line win")
    add(
        "--port-base",
        type=int,
        metavar="N",
        help="port of the first provider; the next ones listen on N+1, N+2 ... (default: free ports)",
    )
    add("--admin-port", type=int, metavar="N", help="port of the admin API (default: a free port)")
    add("--latency", metavar="NAME", help=f"latency of all providers: {', '.join(PRESETS)} (default: quick)")
    add("--words", type=int, metavar="N", help="length of an answer in words (default: 40)")
    add(
        "--require-key",
        action="append",
        default=[],
        metavar="NAME=KEY",
        help="accept only this key at this provider (repeatable; default: any key, or none)",
    )
    add(
        "--seed",
        type=int,
        metavar="N",
        help="seed of answers, latencies and faults; equal seeds and requests give equal runs (default: 0)",
    )
    add(
        "--leash",
        action="store_true",
        help="exit as soon as stdin ends, that is with the parent process",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
