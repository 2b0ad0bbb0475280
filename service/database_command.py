"""Show and change the tables of the database: `dub5 db status`, `check`, `up` and `down`."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from dub5.service import clock
from dub5.service.config.load import DEFAULT_FILE, config_file, load, read_key
from dub5.service.config.settings import SettingsProblems
from dub5.service.store import migrate
from dub5.service.store.base import DatabaseLost, StatementRefused
from dub5.service.store.migrate import MigrationSession, Step
from dub5.service.store.url import DEFAULT_URL, describe, parse_url, url_problems

T = TypeVar("T")

OK, NOT_DONE, UNUSABLE = 0, 1, 2
PROGRESS_S = 2.0  # of silence, after which a line says what is waited for
EPILOG = """\
examples:
  dub5 db status                                    what is applied, and what is pending
  dub5 db check                                     whether `up` would work now; changes nothing
  dub5 db up                                        apply what is pending, before the new release starts
  dub5 db down --to 1                               say what would be lost by going back to 0001
  dub5 db down --to 1 --yes                         and do it
  dub5 db up --url sqlite:///data/dub5.db           without a settings file
  dub5 db up --url-env DATABASE_URL                 the URL, with its password, is in that variable

Without --url and --url-env the [database] table of the settings says which database it is, and without that
table it is the file data/dub5.db.

`up` may run on any number of machines at once: one applies, the others find it done. Each file is applied in
a transaction: if it fails, nothing of it stays. A release only adds to the tables, so the release before
still works after `up`; `down` is for a failed deployment of the same hour. Stop the services of the new
release first: one that runs with database.migrate = "start" applies again what it misses.

exit codes: 0 done, or nothing to do; 1 something is pending, or could not be done, and a line says why;
2 the command line or the settings cannot be used; 130 stopped by Ctrl-C
"""
ACTIONS = {
    "status": "show which migrations are applied and which are pending",
    "check": "show whether `up` would work now: connection, files, rights, room; changes nothing",
    "up": "apply what is pending",
    "down": "undo what was applied after a number: its tables and their rows are deleted",
}


class UnusableDatabase(Exception):
    """The command line or the settings cannot be used; the message says why."""


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the actions of `db`."""
    parser.epilog = EPILOG
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in ACTIONS.items():
        action = actions.add_parser(
            name,
            help=text,
            description=text.capitalize() + ".",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        action.add_argument("--config", type=Path, metavar="FILE", help="settings file (default: dub5.toml)")
        where = action.add_mutually_exclusive_group()
        where.add_argument("--url", help="the database; other users of this machine can see it")
        where.add_argument("--url-env", metavar="NAME", help="environment variable that holds the URL")
        if name == "down":
            action.add_argument(
                "--to",
                type=_number,
                required=True,
                metavar="N",
                help="number of the last one that stays; 0: none",
            )
            action.add_argument("--yes", action="store_true", help="do it; else only say what would be lost")


def run(options: argparse.Namespace) -> int:
    """Run an action of `db`. Return the exit code."""
    try:
        url = _url(options)
        if problems := url_problems(url):
            raise UnusableDatabase(f"The database URL {problems[0]}")
        return asyncio.run(_act(options, url))
    except SettingsProblems as error:
        print(error.report(), file=sys.stderr)
    except UnusableDatabase as error:
        print(error, file=sys.stderr)
    except (DatabaseLost, StatementRefused, ValueError) as error:
        print(f"Not done: {error}.", file=sys.stderr)
        return NOT_DONE
    return UNUSABLE


def _url(options: argparse.Namespace) -> str:
    """Return the URL of the command line or the settings. Raises SettingsProblems, UnusableDatabase."""
    if options.url is not None:
        return str(options.url)
    if options.url_env is not None:
        return read_key(options.url_env, "--url-env").reveal()
    config = options.config or config_file()
    if config == DEFAULT_FILE and not config.exists():
        raise UnusableDatabase(
            "Which database? Name a settings file with --config FILE, or the database with --url URL."
        )
    loaded = load(config, insecure=True)  # nothing listens
    database = loaded.settings.database
    if loaded.database_url is not None:
        return loaded.database_url.reveal()
    if database.url_env is not None:
        return read_key(database.url_env, "database.url_env").reveal()
    return database.url or DEFAULT_URL


async def _act(options: argparse.Namespace, url: str) -> int:
    print(f"{describe(url)}:", flush=True)
    match options.action:
        case "up":
            return await _up(url)
        case "down":
            return await _down(url, options.to, options.yes)
        case "check":
            return await _check(url)
    return await _status(url)


async def _status(url: str) -> int:
    if (found := await _steps(url)) is None:
        return NOT_DONE
    for step in found:
        print(f"  {step.state:<8} {step.label}{_applied(step)}")
    pending = sum(step.state == "pending" for step in found)
    print(f"{pending} pending; `dub5 db up` applies them." if pending else "Nothing is pending.")
    if changed := any(step.state == "changed" for step in found):
        print("A file is not the one that was applied: put the old one back, and add a new file.")
    return NOT_DONE if pending or changed else OK


async def _check(url: str) -> int:
    if (found := await _steps(url)) is None:
        return NOT_DONE
    session = migrate.open_session(url)
    try:
        print(f"  answers: {await session.version()}")
        problems = [*migrate.obstacles(found, parse_url(url)), *await _faults(session)]
    finally:
        await session.aclose()
    for problem in problems:
        print(f"  NO: {problem}")
    pending = sum(step.state == "pending" for step in found)
    print(f"{pending} pending, {len(problems)} problems.")
    return NOT_DONE if problems else OK


async def _up(url: str) -> int:
    done = await _with_progress(migrate.up(url, _say))
    print(f"{len(done)} applied." if done else "Nothing was pending.")
    return OK


async def _down(url: str, to: int, really: bool) -> int:
    if (found := await _steps(url)) is None:
        return NOT_DONE
    if not any(step.applied and step.applied.number > to for step in found):
        print(f"Nothing above {to:04} is applied.")
        return OK
    migrate.refuse_newer(found)
    if not really:
        session = migrate.open_session(url)
        try:
            lost = await migrate.losses(session, to)
        finally:
            await session.aclose()
        print(f"  would be lost for good: {', '.join(lost) or 'no table'}")
        print("Nothing was undone. Make a backup, then add --yes.")
        return NOT_DONE
    undone = await _with_progress(migrate.down(url, to, _say))
    print(f"{len(undone)} undone.")
    return OK


async def _steps(url: str) -> list[Step] | None:
    """Return how the migrations stand; None, said to the user, for a file that does not exist."""
    parsed = parse_url(url)
    if parsed.engine == "sqlite" and not parsed.path.exists():
        print("The file does not exist yet; `dub5 db up` makes it.")
        return None
    session = migrate.open_session(url)
    try:
        return await migrate.steps(session)
    finally:
        await session.aclose()


async def _faults(session: MigrationSession) -> list[str]:
    """Return what else is wrong with the database: damage, missing rights."""
    if session.engine == "sqlite":
        rows = await session.run("PRAGMA quick_check")
        return [f"the file is damaged ({row[0]!s}); restore it" for row in rows if row[0] != "ok"]
    ((may_create, reads_only),) = await session.run(
        "SELECT has_schema_privilege(current_schema(), 'CREATE'), current_setting('transaction_read_only')"
    )
    missing = [] if may_create else ["this user may not create tables; grant CREATE on the schema"]
    return [*missing, *(["the server only reads; name the primary one"] if reads_only == "on" else [])]


async def _with_progress(work: Awaitable[T]) -> T:
    """Return what `work` returns; while it takes long, say so."""
    task = asyncio.ensure_future(work)
    began_s = clock.now()
    try:
        while not (await asyncio.wait({task}, timeout=PROGRESS_S))[0]:
            _say(f"... still at it, after {clock.now() - began_s:.0f} s")
    finally:
        task.cancel()
    return await task


def _applied(step: Step) -> str:
    if step.applied is None:
        return ""
    at = datetime.fromtimestamp(step.applied.at, UTC)
    return f"  {at:%Y-%m-%d %H:%M} UTC, in {step.applied.took_ms} ms, by release {step.applied.release}"


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 4:
        raise argparse.ArgumentTypeError("must be the number of a migration, such as 1 or 0001, or 0")
    return int(text)
