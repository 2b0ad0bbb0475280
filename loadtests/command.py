"""Measure the service under load and check its objectives.

Starts simulated providers and the service, sends requests and holds conversations with Locust by an open
schedule, judges every answer, and checks the run against loadtests/slo.toml. Writes reports/load.json and
reports/load.html, which name the slowest stage of the service.
"""

import argparse
import asyncio
import datetime
import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import Any

import msgspec

from dub5.chaos.engines.processes import NotStarted, run_until_stopped
from dub5.loadtests import report, summary
from dub5.loadtests.mix import load
from dub5.loadtests.stack import stack
from dub5.loadtests.stages import StageTime, scrape, stages
from dub5.service.closed_output import ends_with_its_reader

ROOT = Path(__file__).resolve().parents[1]
LOCUSTFILE = Path(__file__).with_name("locustfile.py")
LAST_ANSWERS_S = 90
INTERRUPTED = 130
NO_LOCUST = """\
Locust is not installed here. It needs a virtual environment of its own, as it patches sockets and threads:
    python3 -m venv .tools/load && .tools/load/bin/pip install -c constraints.txt -e '.[load]'
    .tools/load/bin/python -m dub5.loadtests"""
EPILOG = """\
what a mix sends (loadtests/mixes.toml, objectives in loadtests/slo.toml):
  chat    what a chat frontend does: streams, JSON answers, repeated questions, clients that leave; and people
          who hold conversations over server-sent events or a WebSocket, with several personalities, think
          between their questions, stop answers, lose the connection in mid-answer and read on. Each position
          in each answer is checked: one gap or repeat fails the run
  added   the time that the service adds to the first token, against direct calls of the same provider

the numbers:
  late           the generator's own delay: above 100 ms at p99 the run is invalid, so lower --rate
  added, turn added    first token, less that of direct calls in the same run
  resume         from a reconnect in mid-answer to the first message
  stages         where the time of a request went inside of the service, by its own metrics

examples:
  dub5 load                                    half a minute, 20 arrivals a second
  dub5 load --mix added --rate 50              measure what the service adds to the first token
  dub5 load --rate 100 --seconds 120           look for the rate at which objectives break
  dub5 load --url http://127.0.0.1:8080        use a running service over simulated providers

exit codes: 0 all objectives held, 1 an objective did not hold, 2 the run could not be made
"""


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of the verb `load`."""
    parser.description, parser.epilog = __doc__, EPILOG
    _add_options(parser)
    parser.set_defaults(run=run)


@ends_with_its_reader
def main(arguments: list[str] | None = None) -> int:
    """Make the load run of a command line. Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dub5.loadtests", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, "load")
    return run(parser.parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Make a load run. Return the exit code."""
    try:
        mix = load(options.mix)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.url and not options.direct and any(ask.direct for ask in mix.ask):
        print(
            f"The mix {options.mix!r} also calls a provider directly: give its --direct URL.", file=sys.stderr
        )
        return 2
    if options.key_env and not os.environ.get(options.key_env):
        print(f"The variable {options.key_env!r} of --key-env is not set.", file=sys.stderr)
        return 2
    if importlib.util.find_spec("locust") is None:
        print(NO_LOCUST, file=sys.stderr)
        return 2
    options.reports.mkdir(parents=True, exist_ok=True)
    try:
        return run_until_stopped(_started(options, mix.latency))
    except NotStarted as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped; nothing is left running.", file=sys.stderr)
        return INTERRUPTED


async def _started(options: argparse.Namespace, latency: str) -> int:
    """Make the run with a running service, or with one that is started for it. Return the exit code."""
    if options.url:
        return await _run(options)
    async with stack(latency) as up:
        options.url, options.direct = up.url, up.direct
        return await _run(options)


async def _run(options: argparse.Namespace) -> int:
    samples_file = options.reports.resolve() / "load.samples.jsonl"
    samples_file.unlink(missing_ok=True)
    log = options.reports / "locust.log"
    print(
        f"{options.rate:g} arrivals a second for {options.seconds:g} s at {options.url}, mix {options.mix!r}",
        flush=True,
    )
    key = os.environ.get(options.key_env)
    before = await scrape(options.url, key)
    with log.open("wb") as output:
        locust = await asyncio.create_subprocess_exec(
            *_locust(options, samples_file), cwd=ROOT, stdout=output, stderr=output
        )
        try:
            exit_code = await locust.wait()
        finally:
            if locust.returncode is None:
                locust.kill()
                await locust.wait()
    if exit_code or not samples_file.is_file():
        print(f"Locust ended with exit code {exit_code}:\n{log.read_text()[-2000:]}", file=sys.stderr)
        return 2
    head, samples = summary.read(samples_file)
    seen = summary.summarize(head, samples, options.seconds)
    passed = stages(before, await scrape(options.url, key))
    rows = summary.judge(seen, summary.objectives(options.mix))
    print(_table(seen, passed, rows))
    _write(options, seen, passed, rows)
    return 0 if all(row.held for row in rows) else 1


def _locust(options: argparse.Namespace, samples: Path) -> list[str]:
    ours = {
        "--host": options.url,
        "--direct": options.direct or "",
        "--rate": options.rate,
        "--seconds": options.seconds,
        "--seed": options.seed,
        "--mix": options.mix,
        "--model": options.model,
        "--key-env": options.key_env,
        "--samples": samples,
        "--run-time": f"{options.seconds + LAST_ANSWERS_S:.0f}s",
    }
    options_of_run = [str(word) for pair in ours.items() for word in pair]
    fixed = ["--headless", "--users", "1", "--only-summary", "--exit-code-on-error", "0"]
    return [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *fixed, *options_of_run]


def _table(seen: dict[str, Any], passed: list[StageTime], rows: list[summary.SummaryRow]) -> str:
    lines = [f"{'ms':<18}{'p50':>9}{'p95':>9}{'p99':>9}{'p99.9':>9}"]
    for name, found in report.spans(seen):
        lines.append(f"{name:<18}" + "".join(f"{value:>9.1f}" for value in found.values()))
    lines += ["", f"{'stage of the service':<44}{'count':>8}{'p95 ms <=':>11}{'ms/request':>12}"]
    lines += [f"{one.name:<44}{one.count:>8}{one.p95_ms:>11.1f}{one.request_ms:>12.2f}" for one in passed]
    lines.append(f"slowest stage: {passed[0].name}" if passed else "no stages: the service shows no metrics")
    lines += [
        "",
        "outcomes: " + ", ".join(f"{count} {name}" for name, count in seen["outcomes"].items() if count),
    ]
    lines += [f"  {count} x {why}" for why, count in seen["why"].items()]
    lines += ["", f"{'objective':<28}{'bound':>9}{'value':>12}"]
    for row in rows:
        value = "no value" if row.value is None else f"{row.value:g}"
        lines.append(f"{row.name:<28}{row.bound:>9g}{value:>12}  {'held' if row.held else 'NOT HELD'}")
    return "\n".join(lines)


def _write(
    options: argparse.Namespace,
    seen: dict[str, Any],
    passed: list[StageTime],
    rows: list[summary.SummaryRow],
) -> None:
    at = datetime.datetime.now(datetime.UTC)
    machine = {
        "system": " ".join(os.uname()[::2]),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    record = {
        "at": at,
        "machine": machine,
        "options": {
            "rate": options.rate,
            "seconds": options.seconds,
            "mix": options.mix,
            "seed": options.seed,
        },
        "objectives": [
            {"name": row.name, "bound": row.bound, "value": row.value, "held": row.held} for row in rows
        ],
        "summary": seen,
        "stages": passed,
    }
    path = options.reports / "load.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    run = f"{options.rate:g} arrivals a second for {options.seconds:g} s, mix {options.mix!r}"
    where = f"{machine['system']}, {machine['cores']} cores, Python {machine['python']}"
    facts = f"{run}, seed {options.seed}; {at:%Y-%m-%d %H:%M} UTC, {where}"
    path.with_suffix(".html").write_text(report.html(facts, seen, passed, rows), encoding="utf-8")
    print(f"\nwrote {path} and {path.with_suffix('.html')}")


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seconds", type=float, default=30.0, help="duration of the schedule in seconds (default: 30)")
    add(
        "--rate",
        type=float,
        default=20.0,
        help="mean number of arrivals per second (default: 20)",
    )
    add("--mix", default="chat", help="mix of requests and people (default: chat)")
    add("--seed", default="0", help="seed of arrival times and questions (default: 0)")
    add("--url", metavar="URL", help="use a running service, and start nothing")
    add("--model", default="chat", metavar="NAME", help="model name of the requests (default: chat)")
    add("--key-env", default="", metavar="NAME", help="environment variable with the API key for --url")
    add(
        "--direct",
        metavar="URL",
        help="OpenAI-compatible provider behind --url, for mixes with direct requests",
    )
    add("--reports", type=Path, default=Path("reports"), help="directory of the reports (default: reports)")
