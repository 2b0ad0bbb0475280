"""List the personalities of the settings, or try texts side by side: `dub5 personality list`, `... try`."""

import argparse
import asyncio
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from dub5.service.command import NO_CONFIG
from dub5.service.config.load import DEFAULT_FILE, config_file, load
from dub5.service.config.personalities import SHIPPED, model_name, read_shipped, read_text
from dub5.service.config.settings import LoadedSettings, Personality, RouteSettings, SettingsProblems
from dub5.service.personality_trial import Trial, TrialAnswer
from dub5.service.terminal import printable

OK, NO_ANSWER, UNUSABLE = 0, 1, 2
PROGRESS_S = 2.0  # of silence, after which a line says what is waited for
QUESTIONS_MAX = 1_000
QUESTIONS_BYTES_MAX = 1024 * 1024
COLUMN_CHARS_MIN = 20
EPILOG = """\
examples:
  dub5 personality list                                         the shipped ones, and those of ./dub5.toml
  dub5 personality try tutor --questions q.txt                  the answers of one text
  dub5 personality try tutor --questions q.txt --against new.md     beside those of another version
  dub5 personality try tutor --questions q.txt --against short      beside those of another personality

q.txt holds one question a line; blank lines and lines that begin with # are passed over.

exit codes: 0 each text answered each question; 1 a question got an error; 2 something cannot be used;
130 stopped by Ctrl-C
"""


class Unusable(Exception):
    """Something that the command line names cannot be used; the message says why."""


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the actions of `personality`."""
    parser.epilog = EPILOG
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    form = argparse.RawDescriptionHelpFormatter
    listing = actions.add_parser(
        "list", help="show the personalities and their model names", epilog=EPILOG, formatter_class=form
    )
    trying = actions.add_parser(
        "try",
        help="ask questions with one text, or with two side by side",
        epilog=EPILOG,
        formatter_class=form,
    )
    for action in (listing, trying):
        action.add_argument("--config", type=Path, metavar="FILE", help="settings file (default: dub5.toml)")
    trying.add_argument("name", metavar="NAME", help="a personality of the settings, or a shipped one")
    trying.add_argument(
        "--questions", type=Path, required=True, metavar="FILE", help="text file with one question a line"
    )
    trying.add_argument("--against", metavar="NAME|FILE", help="another personality, or a file with a text")
    trying.add_argument(
        "--route", metavar="MODEL", help="route to ask (default: the first that lists NAME, else the first)"
    )


def run(options: argparse.Namespace) -> int:
    """Run `list` or `try`. Return the exit code."""
    config = options.config or config_file()
    missing = config == DEFAULT_FILE and not config.exists()
    if missing and options.action == "try":
        print(NO_CONFIG, file=sys.stderr)
        return UNUSABLE
    try:
        loaded = None if missing else load(config, insecure=True)  # nothing listens
        return _list(loaded) if options.action == "list" or loaded is None else _try(options, loaded)
    except SettingsProblems as error:
        print(error.report(), file=sys.stderr)
    except Unusable as error:
        print(error, file=sys.stderr)
    return UNUSABLE


def _list(loaded: LoadedSettings | None) -> int:
    known = {name: read_shipped(name) for name in SHIPPED} | dict(loaded.personalities if loaded else {})
    for name, personality in known.items():
        routes = [route for route in (loaded.settings.route if loaded else ()) if name in route.personalities]
        models = ", ".join(model_name(route.name, name) for route in routes) or "no route lists it"
        print(f"{name}: {personality.title}, {len(personality.text):,} characters; {models}")
    return OK


def _try(options: argparse.Namespace, loaded: LoadedSettings) -> int:
    known = {name: read_shipped(name) for name in SHIPPED} | dict(loaded.personalities)
    if options.name not in known:
        raise Unusable(f"There is no personality {options.name!r}; known are {', '.join(known)}.")
    texts = {options.name: known[options.name].text}
    if options.against is not None:
        label, text = _other(options.against, known)
        texts[label if label != options.name else f"{label} again"] = text
    route = _route(options, loaded)
    questions = _questions(options.questions)
    count = len(questions) * len(texts)
    print(f"Asking {len(questions)} questions with {len(texts)} texts: {count} requests to {route.name!r}.")
    return asyncio.run(_ask_all(loaded, route, texts, questions))


def _other(wanted: str, known: dict[str, Personality]) -> tuple[str, str]:
    """Return the label and the text of a personality, or of a file. Raises Unusable."""
    if wanted in known:
        return wanted, known[wanted].text
    text, problem = read_text(Path(wanted))
    if problem:
        raise Unusable(f"--against: {problem} Known personalities are {', '.join(known)}.")
    return wanted, text


def _route(options: argparse.Namespace, loaded: LoadedSettings) -> RouteSettings:
    routes = {route.name: route for route in loaded.settings.route}
    if options.route is None:
        listing = (route for route in routes.values() if options.name in route.personalities)
        return next(listing, loaded.settings.route[0])
    if options.route not in routes:
        raise Unusable(f"--route: there is no route {options.route!r}; known are {', '.join(routes)}.")
    return routes[options.route]


def _questions(path: Path) -> list[str]:
    """Return the questions of a file. Raises Unusable."""
    text, problem = read_text(path, QUESTIONS_BYTES_MAX)
    lines = [line.strip() for line in text.splitlines()]
    questions = [line for line in lines if line and not line.startswith("#")]
    if problem or not questions:
        raise Unusable(f"--questions: {problem or f'{str(path)!r} holds no question.'}")
    if len(questions) > QUESTIONS_MAX:
        raise Unusable(f"--questions: {str(path)!r} holds more than {QUESTIONS_MAX:,} questions.")
    return questions


async def _ask_all(
    loaded: LoadedSettings, route: RouteSettings, texts: dict[str, str], questions: Sequence[str]
) -> int:
    problems = 0
    async with Trial(loaded, route, texts) as trial:
        for number, question in enumerate(questions, 1):
            place = f"[{number}/{len(questions)}]"
            answers = await ask_with_each(trial, list(texts), question, place)
            problems += sum(bool(answer.problem) for answer in answers.values())
            print(f"\n{place} {question}\n{side_by_side(answers, _width())}", flush=True)
    total = len(questions) * len(texts)
    print(f"\n{total - problems} of {total} answered.")
    return NO_ANSWER if problems else OK


async def ask_with_each(
    trial: Trial, labels: Sequence[str], question: str, place: str
) -> dict[str, TrialAnswer]:
    """Ask with each text at the same time, and say now and then which is waited for.

    `place`: the number of the question, at the beginning of a line.
    """
    tasks = {label: asyncio.create_task(trial.ask(label, question)) for label in labels}
    waited_s = 0.0
    while True:
        _, waiting = await asyncio.wait(tasks.values(), timeout=PROGRESS_S)
        if not waiting:
            return {label: task.result() for label, task in tasks.items()}
        waited_s += PROGRESS_S
        names = ", ".join(label for label, task in tasks.items() if task in waiting)
        print(f"{place} waiting for {names}: {waited_s:g} s", file=sys.stderr, flush=True)


def side_by_side(answers: dict[str, TrialAnswer], width: int) -> str:
    """Return the answers in columns, each under its label."""
    column = max(COLUMN_CHARS_MIN, (width - 3 * (len(answers) - 1)) // len(answers))
    columns = [
        [
            *_wrapped(label, column),
            "-" * column,
            *_wrapped(answer.problem or answer.text, column),
            _footer(answer),
        ]
        for label, answer in answers.items()
    ]
    rows = zip_longest(*columns, fillvalue="")
    return "\n".join(" | ".join(cell.ljust(column) for cell in row).rstrip() for row in rows)


def _footer(answer: TrialAnswer) -> str:
    words = "no answer" if answer.problem else f"{len(answer.text.split())} words"
    return f"({words}, {answer.took_s:.1f} s, {answer.target or 'no target'})"


def _wrapped(text: str, width: int) -> list[str]:
    return [
        piece
        for line in printable(text, keep="\n").split("\n")
        for piece in (textwrap.wrap(line, width) or [""])
    ]


def _width() -> int:
    return shutil.get_terminal_size((120, 24)).columns
