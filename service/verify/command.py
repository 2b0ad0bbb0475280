"""The verb `verify`: runs the checks of a deployed service in order, a line each."""

import argparse
import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple
from urllib.parse import urlsplit

from dub5.service.app import build_wire
from dub5.service.config.load import read_key
from dub5.service.config.settings import ServerSettings, SettingsProblems
from dub5.service.terminal import printable
from dub5.service.verify import api_checks, edge_checks
from dub5.service.verify.site import CheckFailed, FeatureMissing, Site

DESCRIPTION = """\
Ask a deployed service from outside: health, models, an answer, a stream, errors, headers, CORS, limits,
sessions. It sends about 20 requests; two of them are answered by a provider, with a few tokens.
"""
EPILOG = """\
exit codes: 0 all that is there holds; 1 a check fails; 2 nothing could be checked; 130 stopped by Ctrl-C
"""
PROGRESS_S = 2.0  # of silence, after which a line says what is waited for
SAID_CHARS_MAX = 500
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+")


class DeployCheck(NamedTuple):
    """One check; `run` returns what it saw."""

    name: str
    run: Callable[[Site], Awaitable[str]]


CHECKS = (
    DeployCheck("health", api_checks.check_health),
    DeployCheck("ready", api_checks.check_ready),
    DeployCheck("models", api_checks.check_models),
    DeployCheck("chat", api_checks.check_chat),
    DeployCheck("stream", api_checks.check_stream),
    DeployCheck("errors", api_checks.check_errors),
    DeployCheck("headers", edge_checks.check_headers),
    DeployCheck("https", edge_checks.check_https),
    DeployCheck("cors", edge_checks.check_cors),
    DeployCheck("limits", edge_checks.check_limits),
    DeployCheck("session", edge_checks.check_session),
    DeployCheck("leaks", edge_checks.check_leaks),
)
FEATURES = ("headers", "https", "cors", "limits", "session")  # which a service may have, or not


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of `verify`."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.set_defaults(run=run)
    parser.add_argument(
        "url", metavar="URL", type=_url, help="address of the service, as https://dub5.example"
    )
    parser.add_argument("--key-env", metavar="VARIABLE", help="environment variable that holds a caller key")
    parser.add_argument("--model", default="", metavar="NAME", help="model to ask (default: the first)")
    parser.add_argument(
        "--origin",
        action="append",
        default=[],
        type=_origin,
        metavar="ORIGIN",
        help="page that may ask from a browser, as https://page.example; may be repeated",
    )
    parser.add_argument(
        "--expect",
        type=_features,
        default=(),
        metavar="FEATURES",
        help=f"features whose absence is a failure, with commas: {', '.join(FEATURES)}",
    )


def run(options: argparse.Namespace) -> int:
    """Run `verify`. Return the exit code."""
    try:
        key = None if options.key_env is None else read_key(options.key_env)
    except SettingsProblems as error:
        print(error.report(), file=sys.stderr)
        return 2
    wire = build_wire(ServerSettings())
    site = Site(options.url, wire, key, options.model, options.origin)

    async def verified() -> int:
        try:
            return await verify(site, options.expect)
        finally:
            await wire.aclose()

    return asyncio.run(verified())


async def verify(site: Site, expected: Collection[str] = ()) -> int:
    """Run all checks, print a line for each, return the exit code. If nothing answers, stop at the first."""
    print(f"Verifying {site.url}:", flush=True)
    failed, missing = 0, 0
    for number, check in enumerate(CHECKS, 1):
        place = f"  [{number:>2}/{len(CHECKS)}] {check.name:<8}"
        try:
            said = f"ok: {await _awaited(check, site, place)}"
        except CheckFailed as error:
            failed, said = failed + 1, f"FAILS: {error}"
        except FeatureMissing as error:
            if check.name in expected:
                failed, said = failed + 1, f"FAILS: {error}; it was expected"
            else:
                missing, said = missing + 1, f"NOT HERE: {error}"
        print(f"{place} {_one_line(said)}", flush=True)
        if number == 1 and not site.answers:
            print("Nothing answers there, so nothing else was asked.", flush=True)
            return 2
    print(f"{len(CHECKS) - failed - missing} hold, {failed} fail, {missing} not here.", flush=True)
    return 1 if failed else 0


async def _awaited(check: DeployCheck, site: Site, place: str) -> str:
    """Run a check, and say now and then that it is waited for. `place`: the beginning of its line."""
    task = asyncio.ensure_future(check.run(site))
    waited_s = 0.0
    while not (await asyncio.wait([task], timeout=PROGRESS_S))[0]:
        waited_s += PROGRESS_S
        print(f"{place} waiting: {waited_s:g} s", file=sys.stderr, flush=True)
    return task.result()


def _one_line(text: str) -> str:
    """Return what a foreign site said as one line, without escape codes and without end."""
    line = printable(text)
    return line if len(line) <= SAID_CHARS_MAX else f"{line[:SAID_CHARS_MAX]} ..."


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_whole = (
            parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
        )
        _ = parts.port
    except ValueError:
        is_whole = False
    if not is_whole or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError("must be an address as https://dub5.example")
    if "@" in parts.netloc:
        raise argparse.ArgumentTypeError("must hold no user and password; --key-env names a caller key")
    return text


def _origin(text: str) -> str:
    if not ORIGIN.fullmatch(text):
        raise argparse.ArgumentTypeError(
            "must be as a browser sends it: https://page.example, in small letters, without a path"
        )
    return text


def _features(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in FEATURES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(FEATURES)}")
    return names
