"""Do the background work of a service in a process of its own: `dub5 work`."""

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from dub5.service import VERSION
from dub5.service.app import Service
from dub5.service.command import NO_CONFIG
from dub5.service.config.load import DEFAULT_FILE, config_file, load
from dub5.service.config.settings import LoadedSettings, Settings, SettingsProblems
from dub5.service.online_check import targets
from dub5.service.telemetry.event_tables import Level
from dub5.service.telemetry.logs import EventLogger, LineWriter

DONE, UNUSABLE = 0, 2
WORKERS_MAX = 16
EPILOG = """\
examples:
  dub5 work --config dub5.toml                 one job at a time, beside any number of `dub5 serve`
  dub5 work --config dub5.toml --workers 4     four at a time

It reads the settings of the service, and does the jobs that are in its database: decks of flashcards. It
listens nowhere. Start as many as you like, on any machine that reaches the database: each job is done by
one of them, and a job whose process dies goes on in another one after 30 s. The clocks of the machines must
agree to a few seconds. To keep `dub5 serve` free of this work, set its [jobs] workers = 0.

SIGTERM or Ctrl-C: the jobs are given back within a second, and others go on with them. A second signal ends
the process at once. SIGHUP reads the settings again.

exit codes: 0 ended by a signal; 2 the settings cannot be used, or have no background work
"""
NO_DATABASE = (
    "There is nothing to do: jobs are kept in the database of conversations. Add a [conversation] table."
)
NO_KINDS = "There is nothing to do: no part of these settings has background work."


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of `work`."""
    parser.epilog = EPILOG
    parser.set_defaults(run=run)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings file (default: what DUB5_CONFIG names, else dub5.toml)",
    )
    parser.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help=f"jobs at one time, 1 to {WORKERS_MAX} (default: [jobs] workers, or 1 where that is 0)",
    )


def run(options: argparse.Namespace) -> int:
    """Run `work`. Return the exit code."""
    config = options.config or config_file()
    if config == DEFAULT_FILE and not config.exists():
        print(NO_CONFIG, file=sys.stderr)
        return UNUSABLE
    load_settings = partial(_load, config, options.workers)
    try:
        loaded = load_settings()
    except SettingsProblems as error:
        print(error.report(), file=sys.stderr)
        return UNUSABLE
    writer, log = LineWriter(), loaded.settings.log
    logger = EventLogger(writer.write, Level[log.level.upper()], log.format)
    try:
        service = Service(loaded, log=logger.log)
        if (problem := problem_of(service)) is not None:
            print(problem, file=sys.stderr)
            return UNUSABLE

        def on_start() -> None:
            logger.started(VERSION, str(config), "none", targets(loaded), "unused", loaded.warnings)

        asyncio.run(work(service, load_settings, on_start))
    finally:
        writer.close()
    return DONE


def problem_of(service: Service) -> str | None:
    """Return why a service has no background work, as a sentence."""
    if service.jobs is None:
        return NO_DATABASE
    return None if service.jobs.kinds else NO_KINDS


async def work(
    service: Service,
    reload_settings: Callable[[Settings], LoadedSettings],
    on_start: Callable[[], None] = lambda: None,
) -> None:
    """Do jobs until a signal says that it is enough; give back what is at work."""
    assert service.jobs is not None, "there are jobs"
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        if ended.is_set():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        ended.set()

    def reload() -> None:
        try:
            service.reload(reload_settings(service.settings))
        except SettingsProblems as error:
            service.reject_settings(error.problems)

    for number, handle in ((signal.SIGTERM, end), (signal.SIGINT, end), (signal.SIGHUP, reload)):
        loop.add_signal_handler(number, handle)
    await service.start()
    gc.freeze()
    on_start()
    print(_ready(service), flush=True)
    try:
        await ended.wait()
        await service.jobs.drain()
    finally:
        await service.aclose()


def _ready(service: Service) -> str:
    assert service.jobs is not None, "there are jobs"
    workers, kinds = service.settings.jobs.workers, ", ".join(service.jobs.kinds)
    return f"working on jobs of the kind {kinds}, at most {workers} at one time"


def _load(config: Path, workers: int | None, running: Settings | None = None) -> LoadedSettings:
    """Return the settings, with at least one worker. Raises SettingsProblems."""
    loaded = load(config, insecure=True, running=running)  # nothing listens
    jobs = loaded.settings.jobs
    jobs = replace(jobs, workers=workers or jobs.workers or 1, watchers_work=False)
    return replace(loaded, settings=replace(loaded.settings, jobs=jobs))


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= WORKERS_MAX:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {WORKERS_MAX}")
    return int(text)
