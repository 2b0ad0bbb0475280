"""Run the service, or check its settings: `dub5 serve`, `dub5 check`."""

import argparse
import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn

from dub5.service import VERSION
from dub5.service.api.socket_messages import FRAME_BYTES_MAX, PING_S
from dub5.service.app import Service, build_wire
from dub5.service.closed_output import ends_with_its_reader
from dub5.service.config.load import DEFAULT_FILE, config_file, load, variables
from dub5.service.config.personalities import model_name
from dub5.service.config.secrets import ReadVariable
from dub5.service.config.session_secret import keep_session_secret, secret_plan
from dub5.service.config.settings import LoadedSettings, Personality, Settings, SettingsProblems
from dub5.service.config.shared_keys import shared_between
from dub5.service.front import protocol_of
from dub5.service.online_check import LIMIT_S, ask_hook, ask_targets, targets
from dub5.service.optional_parts import load_part
from dub5.service.providers.slices import finish
from dub5.service.reloader import Reloader
from dub5.service.store.url import describe
from dub5.service.telemetry.event_tables import Level
from dub5.service.telemetry.logs import EventLogger, LineWriter
from dub5.service.telemetry.process_watch import ProcessWatch

EPILOG = """\
the smallest settings file:
  [[provider]]
  name = "openai"
  dialect = "openai"                    # openai, mistral or anthropic
  base_url = "https://api.openai.com/v1"
  key_env = ["OPENAI_API_KEY"]          # names of environment variables

  [[route]]
  name = "chat"                         # the model name that clients ask for
  targets = ["openai/gpt-4o-mini"]      # tried in this order

Environment variables override any value of a table: DUB5__SERVER__PORT=9000.
A key can also be in a file: OPENAI_API_KEY_FILE names it. When that file changes, or after kill -HUP, keys
and settings are read again.
"""


VERBS = {
    "serve": "Run the service. SIGTERM or Ctrl-C lets open answers finish; a second signal ends them."
    " SIGHUP reloads the settings for new requests.",
    "check": "Check the settings: list every error, or show what would be served."
    " With --online also ask each target once, and send a test message to the hook.",
}
NO_CONFIG = """\
No settings file: ./dub5.toml does not exist. Name another with --config FILE, or in DUB5_CONFIG.
`dub5 serve --help` shows the smallest one. To try the service without any provider: dub5 playground"""


class DrainingServer(uvicorn.Server):
    """uvicorn with a drain: the first signal lets open answers finish, a second one ends the process at once.

    SIGHUP reloads the settings; so does a key file that changes. In the foreground of a terminal that was
    closed, SIGHUP begins the drain instead.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        reload_settings: Callable[[Settings], LoadedSettings],
        on_start: Callable[[str], None],
    ) -> None:
        super().__init__(config)
        self._service = service
        self._reloader = Reloader(service, reload_settings)
        self._on_start = on_start
        self._in_foreground = False
        self._drain_task: asyncio.Task[None] | None = None
        self._file_watch: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and print the address."""
        self._loop = asyncio.get_running_loop()
        self._file_watch = self._loop.create_task(self._reloader.run(), name="key files")
        if hasattr(signal, "SIGHUP"):
            self._in_foreground = _in_foreground()
            self._loop.add_signal_handler(signal.SIGHUP, self._on_sighup)
        await super().startup(sockets)
        gc.freeze()  # what is loaded stays: a full collection need not look at it, which takes 0.1 s
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            if self._service.admin.own_token and sys.stderr.isatty():  # else it would stand in a log for good
                print(f"admin token: {self._service.admin.token.reveal()}", file=sys.stderr, flush=True)
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            self._on_start(address)
            print(f"listening on {address}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain at the first signal; exit at the second one."""
        if self._drain_task is not None or self._loop is None:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
            return
        self._drain_task = self._loop.create_task(self._drain_and_exit())
        self._loop.call_soon_threadsafe(lambda: None)  # wakes the loop up, which a signal alone may not

    def _on_sighup(self) -> None:
        """Begin the drain if the terminal was closed, else reload the settings."""
        if self._drain_task is not None or not self.started:
            return
        if self._in_foreground and _terminal_group() is None:
            self.handle_exit(signal.SIGHUP, None)
            return
        self._reloader.reload()

    async def _drain_and_exit(self) -> None:
        if self._file_watch is not None:
            self._file_watch.cancel()
        await self._service.drain()
        self.should_exit = True


@ends_with_its_reader
def main(arguments: list[str] | None = None) -> int:
    """Run `python -m dub5.service`: `serve` or `check`. Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dub5.service",
        description="An OpenAI-compatible gateway over many unreliable providers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dub5 {VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, formatter_class=parser.formatter_class)
        add_arguments(verb, name)
    options = parser.parse_args(arguments)
    return run(options)


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of `serve` or `check`."""
    parser.description, parser.epilog = VERBS[verb], EPILOG
    parser.set_defaults(run=run)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings file (default: what DUB5_CONFIG names, else dub5.toml)",
    )
    parser.add_argument("--host", help="address to listen on (default: [server] host)")
    parser.add_argument(
        "--port", type=_port, help="port to listen on; 0: any free one (default: $PORT, else [server] port)"
    )
    parser.add_argument("--insecure", action="store_true", help="allow a public address without caller keys")
    if verb == "check":
        parser.add_argument(
            "--online", action="store_true", help="also ask each target once, with a request of a few tokens"
        )
        parser.add_argument(
            "--also",
            action="append",
            default=[],
            type=Path,
            metavar="FILE",
            help="settings of another environment: warn of keys that both use (may be given again)",
        )
        parser.add_argument(
            "--env",
            action="store_true",
            help="also list the environment variables that the settings read; no value is shown",
        )


def run(options: argparse.Namespace) -> int:
    """Run `serve` or `check`. Return the exit code."""
    config = options.config or config_file()
    if config == DEFAULT_FILE and not config.exists():
        print(NO_CONFIG, file=sys.stderr)
        return 2
    if options.verb == "check" and options.env:
        print(_variable_list(variables(config)), flush=True)
    load_settings = partial(load, config, host=options.host, port=options.port, insecure=options.insecure)
    try:
        loaded = load_settings()
    except SettingsProblems as error:
        print(error.report(), file=sys.stderr)
        return 2
    if options.verb == "check":
        print(_summary(loaded), flush=True)
        if not _check_shared_keys(config, loaded, options.also):
            return 2
        return asyncio.run(_check_online(loaded)) if options.online else 0

    def reload_settings(running: Settings) -> LoadedSettings:
        return keep_session_secret(load_settings(running=running))

    return _serve(keep_session_secret(loaded), reload_settings, config)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError("must be a port from 0 to 65535")
    return int(text)


def _serve(loaded: LoadedSettings, reload_settings: Callable[[Settings], LoadedSettings], file: Path) -> int:
    _raise_file_limit()
    writer, log = LineWriter(), loaded.settings.log
    logger = EventLogger(writer.write, Level[log.level.upper()], log.format)
    service = Service(loaded, log=logger.log, watch=ProcessWatch())
    config = server_config(service)
    try:
        listening = _listen(config.host, config.port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        print(
            f"Cannot listen on {config.host}:{config.port}: {reason}. Choose another with --port.",
            file=sys.stderr,
        )
        return 1

    def on_start(address: str) -> None:
        token = "generated" if service.admin.own_token else "admin.token_env"
        logger.started(VERSION, str(file), address, targets(loaded), token, loaded.warnings)

    server = DrainingServer(config, service, reload_settings, on_start)
    service.metrics.observe_connections(lambda: len(server.server_state.connections))
    try:
        server.run(sockets=[listening])
    finally:
        writer.close()
    return 0 if server.started else 1


def server_config(service: Service) -> uvicorn.Config:
    """Return how the service is served: the address, the protocols on a connection, and their bounds."""
    server = service.settings.server
    return uvicorn.Config(
        service.asgi,
        host=server.host,
        port=server.port,
        lifespan="on",
        http=cast(Any, protocol_of(service)),
        ws=load_part("socket protocol") if service.store is not None else "none",
        ws_max_size=FRAME_BYTES_MAX,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        ws_per_message_deflate=False,  # answers are short pieces; a context for each socket costs more
        access_log=False,
        server_header=False,
        proxy_headers=False,  # server.trusted_proxies says who is believed
        log_level="warning",
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,  # longer than clients and load balancers: the server must not close first
    )


def _listen(host: str, port: int) -> socket.socket:
    """Return a bound socket, before anything is built, so that a port in use fails at once.

    Raises OSError.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # The protocol is given because asyncio sets TCP_NODELAY only on sockets whose protocol is TCP.
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(address)
    return listening


def _variable_list(found: Sequence[ReadVariable]) -> str:
    width = max(len(variable.name) for variable in found)
    lines = [f"  {variable.name:<{width}}  {variable.state:<9}  {variable.read_by}" for variable in found]
    return "\n".join(["Environment variables, without their values:", *lines])


def _summary(loaded: LoadedSettings) -> str:
    settings = loaded.settings
    lines = [f"Valid configuration. `serve` would listen on {settings.server.host}:{settings.server.port}."]
    if settings.server.proxy is not None:
        lines.append(f"  via proxy {settings.server.proxy} (private addresses are contacted directly)")
    lines += [
        f"  provider {p.name}: {p.dialect} at {p.base_url}, keys: {len(p.key_env)}" for p in settings.provider
    ]
    if loaded.database_url is not None:
        lines.append(f"  conversations: in {describe(loaded.database_url.reveal())}")
    for route in settings.route:
        lines.append(f"  model {route.name}: {' -> '.join(route.targets)}")
        lines += [
            f"  model {model_name(route.name, name)}: the same, as {loaded.personalities[name].title!r}"
            + _about(loaded.personalities[name])
            for name in route.personalities
        ]
    if loaded.notify is not None:
        lines.append(f"  hook: is told of {', '.join(loaded.notify.events)}")
    if loaded.sentry_dsn is not None and settings.sentry is not None:
        lines.append(f"  sentry: is told of crashes and problems, as {settings.sentry.environment}")
    if (plan := secret_plan(loaded)) is not None:
        lines.append(f"  {plan}")
    lines += [f"Warning: {warning}" for warning in loaded.warnings]
    return "\n".join(lines)


def _check_shared_keys(file: Path, loaded: LoadedSettings, others: Sequence[Path]) -> bool:
    """Warn of keys that other settings files use, too. Return whether those files could be read."""
    valid = True
    for other in others:
        try:
            found = shared_between(file, loaded, other, load(other, insecure=True))
        except SettingsProblems as error:
            print(f"{other}: {error.report()}", file=sys.stderr)
            valid = False
            continue
        for warning in found:
            print(f"Warning: {warning}", flush=True)
    return valid


def _about(personality: Personality) -> str:
    """Return what `check` says of the document of a personality."""
    if personality.document is None:
        return ""
    document = finish(load_part("grounding").of(personality.document)).document
    found = f", about a document of {len(document.passages)} passages"
    if document.unusable:
        found += f"; {document.unusable} of them give instructions to a model, and are left out"
    return found


async def _check_online(loaded: LoadedSettings) -> int:
    """Ask each target once, and print what came of it. Return the exit code."""
    total, problems = len(targets(loaded)), 0
    print(f"Asking each of {total} targets once, each for at most {LIMIT_S:g} s:", flush=True)
    wire, hook_problem = build_wire(loaded.settings.server), ""
    try:
        done = 0
        async for finding in ask_targets(loaded, wire):
            done += 1
            problems += bool(finding.problem)
            result = f"NO: {finding.problem}" if finding.problem else f"answers, after {finding.took_s:.1f} s"
            print(f"  [{done}/{total}] {finding.target}: {result}", flush=True)
        if loaded.notify is not None:
            hook_problem = await ask_hook(loaded.notify, wire)
            result = f"NO: {hook_problem}" if hook_problem else "it has taken a test message"
            print(f"  the hook of [notify]: {result}", flush=True)
    finally:
        await wire.aclose()
    print(f"{total - problems} of {total} targets answer.")
    problems += bool(hook_problem)
    return 1 if problems else 0


def _in_foreground() -> bool:
    """Return whether we run in the foreground of a terminal, without nohup, and must end with it."""
    return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _terminal_group() == os.getpgrp()


def _terminal_group() -> int | None:
    """Return the terminal's foreground process group; None without a terminal, or after it was closed."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return os.tcgetpgrp(terminal)
    except OSError:
        return None
    finally:
        os.close(terminal)


def _raise_file_limit() -> None:
    """Raise the limit of open files: a stream takes two, and many systems set a soft limit of 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = hard if hard != resource.RLIM_INFINITY else max(soft, 65_536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
