"""`python -m simulators`: simulated providers as one process. See `--help`."""

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
One line of JSON on stdout says that all of it is ready, and where:
  {{"providers": {{"one": {{"url": "http://127.0.0.1:9001", "persona": "openai"}},
   ...}}, "admin": "...", "token": "..."}}
An OpenAI client wants the url with /v1 behind it, the packages of Anthropic and Mistral the url as it is.

Break a provider, see what it did, heal it ($ADMIN and $TOKEN are from that line):
  curl -X PUT $ADMIN/faults/one -H "Authorization: Bearer $TOKEN" \\
       -d '{{"kind": "status", "status": 530, "body": "cloudflare_1033_text"}}'
  curl "$ADMIN/ledger?provider=one" -H "Authorization: Bearer $TOKEN"
  curl -X DELETE $ADMIN/faults/one -H "Authorization: Bearer $TOKEN"

Faults, any of them with "share" (0 to 1, of the requests), "first" (only the first n), "model", or as an outage
("at_s", "for_s", "every_s"; or "up_s" and "down_s", drawn):
  {{"kind": "status", "status": 429, "retry_after_s": 2}}   {{"kind": "stall", "before": "first_token", "s": 30}}
  {{"kind": "cut", "after_tokens": 5, "how": "reset"}}      {{"kind": "garbage", "where": "sse"}}
  {{"kind": "reset", "before": "head"}}                     {{"kind": "close", "before": "head"}}
  {{"kind": "slow", "factor": 10}}                          {{"kind": "empty"}}
  {{"kind": "broken", "how": "chunk"}}                      {{"kind": "notice"}}
  {{"kind": "unreachable", "stage": "connect", "how": "refused"}}   new connections only; more with "closes_open"
  {{"kind": "sequence", "steps": ["status:500", "ok", "cut:5:reset"], "loop": true}}   one step for each request
docs/prove/simulators.md has all of them, and limits, capacity and edges. Limits and capacity can be changed, too:
  curl -X PUT $ADMIN/capacity/one -H "Authorization: Bearer $TOKEN" -d '{{"slots": 4, "queue_max": 20}}'

A file for --config; everything in it may be left out:
  seed = 1
  latency = "frontier"          # {", ".join(PRESETS)}
  [[provider]]
  name = "one"
  persona = "openai"            # {", ".join(PERSONAS)}
  port = 9001
  words = 60                    # of an answer, unless max_tokens is smaller
  key = "sk-test"               # no other is accepted
  models = ["gpt-sim"]
  limits = {{ requests_per_minute = 500 }}
  tls = false                   # true: its url is https, and the line above names its `ca_file`
  [[provider.fault]]
  kind = "status"
  status = 500
  share = 0.05
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT; with --leash, until stdin ends. Returns the exit code."""
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
    """Serves until told to stop. Raises OSError if a port is taken, BadSettings, NoCertificates."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    started_s = loop.time()
    providers, ledger = make(settings, now=lambda: loop.time() - started_s, epoch_s=int(time.time()))
    async with contextlib.AsyncExitStack() as stack:
        tls = stack.enter_context(certificates()) if any(p.tls for p in settings.providers) else None
        said = {}
        for wanted in settings.providers:
            shown = tls if wanted.tls else None
            try:
                server = await stack.enter_async_context(
                    serve(providers[wanted.name], host=HOST, port=wanted.port, tls=shown)
                )
            except BadFault as error:
                raise BadSettings(f"a fault of `{wanted.name}`: {error}") from None
            said[wanted.name] = {"url": server.url, "persona": wanted.persona}
            if shown is not None:
                said[wanted.name]["ca_file"] = shown.ca_file
        token = secrets.token_urlsafe(24)
        admin = AdminApi(providers, ledger, token)
        server = await stack.enter_async_context(serve(admin, host=HOST, port=settings.admin_port))
        print(json.dumps({"providers": said, "admin": server.url, "token": token}), flush=True)
        if leash:
            threading.Thread(target=_hold_leash, args=(loop, stop), daemon=True).start()
        await stop.wait()


def _hold_leash(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """In a thread, as stdin may be a file, a pipe or a terminal; read by number, as the thread is never joined."""
    while os.read(0, 65536):
        pass
    loop.call_soon_threadsafe(stop.set)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulators",
        description="Simulated AI providers on 127.0.0.1: true wire formats, faults on demand, a ledger of what happened.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    personas = ", ".join(PERSONAS)
    add(
        "--provider",
        action="append",
        default=[],
        metavar="NAME=PERSONA",
        help=f"personas: {personas}; may be repeated; without any: one=openai, two=mistral, three=anthropic",
    )
    add("--config", metavar="FILE", help="a TOML file; what is said here wins over it")
    add(
        "--port-base",
        type=int,
        metavar="N",
        help="the first provider listens on N, the next on N+1 ...; else any free ports",
    )
    add("--admin-port", type=int, metavar="N", help="of the API for faults and ledger; else any free port")
    add("--latency", metavar="NAME", help=f"of all providers: {', '.join(PRESETS)}; quick if nothing is said")
    add("--words", type=int, metavar="N", help="length of an answer; 40 if nothing is said")
    add(
        "--require-key",
        action="append",
        default=[],
        metavar="NAME=KEY",
        help="this provider takes no other key; without it any key is taken, and none",
    )
    add(
        "--seed",
        type=int,
        metavar="N",
        help="equal seeds and equal requests give equal answers, times and faults; 0 if nothing is said",
    )
    add(
        "--leash",
        action="store_true",
        help="end as soon as stdin ends: with the program that started this one",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
