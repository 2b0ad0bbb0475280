"""python -m loadtests: how does the service do under load?

Starts simulated providers and the service, sends requests by schedule with Locust, judges every answer, and holds the
run to loadtests/slo.toml. Writes reports/load.json and reports/load.html.
"""

import argparse
import asyncio
import datetime
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from dub5.chaos.engines.processes import NotStarted
from dub5.loadtests import summary
from dub5.loadtests.mix import load
from dub5.loadtests.stack import stack

ROOT = Path(__file__).resolve().parents[1]
LOCUSTFILE = Path(__file__).with_name("locustfile.py")
LAST_ANSWERS_S = 90
NO_LOCUST = """\
Locust is not installed here. It wants an environment of its own, as it changes how sockets and threads work:
    python3 -m venv .tools/load && .tools/load/bin/pip install -c constraints.txt -e '.[load]'
    .tools/load/bin/python -m loadtests"""
EPILOG = """\
exit codes: 0 every objective held, 1 one did not, 2 the run could not be made

  python -m loadtests --seconds 30 --rate 20
  python -m loadtests --mix added --rate 50     what the service adds to the first token
  python -m loadtests --url http://127.0.0.1:8080     a service that runs already, over simulated providers
"""


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    options = _parser().parse_args(arguments)
    try:
        mix = load(options.mix)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.url and not options.direct and any(ask.direct for ask in mix.ask):
        print(
            f"The mix {options.mix!r} also asks a provider: say which one with --direct URL.", file=sys.stderr
        )
        return 2
    if importlib.util.find_spec("locust") is None:
        print(NO_LOCUST, file=sys.stderr)
        return 2
    options.reports.mkdir(parents=True, exist_ok=True)
    try:
        return asyncio.run(_started(options, mix.latency))
    except NotStarted as error:
        print(error, file=sys.stderr)
        return 2


async def _started(options: argparse.Namespace, latency: str) -> int:
    """The run, over a service that runs already or one of our own."""
    if options.url:
        return await asyncio.to_thread(_run, options)
    async with stack(latency) as up:
        options.url, options.direct = up.url, up.direct
        return await asyncio.to_thread(_run, options)


def _run(options: argparse.Namespace) -> int:
    samples_file = options.reports.resolve() / "load.samples.jsonl"
    samples_file.unlink(missing_ok=True)
    log = options.reports / "locust.log"
    print(
        f"{options.rate:g} requests a second for {options.seconds:g} s to {options.url}, mix {options.mix!r}",
        flush=True,
    )
    with log.open("wb") as output:
        ended = subprocess.run(
            _locust(options, samples_file), cwd=ROOT, stdout=output, stderr=output, check=False
        )
    if ended.returncode or not samples_file.is_file():
        print(f"Locust ended with {ended.returncode}:\n{log.read_text()[-2000:]}", file=sys.stderr)
        return 2
    head, samples = summary.read(samples_file)
    seen = summary.summarize(head, samples, options.seconds)
    rows = summary.judge(seen, summary.objectives(options.mix))
    print(_table(seen, rows))
    _write(options, seen, rows)
    return 0 if all(row.held for row in rows) else 1


def _locust(options: argparse.Namespace, samples: Path) -> list[str]:
    ours = {
        "--host": options.url,
        "--direct": options.direct or "",
        "--rate": options.rate,
        "--seconds": options.seconds,
        "--seed": options.seed,
        "--mix": options.mix,
        "--samples": samples,
        "--html": options.reports.resolve() / "load.html",
        "--run-time": f"{options.seconds + LAST_ANSWERS_S:.0f}s",
    }
    words = [str(word) for pair in ours.items() for word in pair]
    fixed = ["--headless", "--users", "1", "--only-summary", "--exit-code-on-error", "0"]
    return [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *fixed, *words]


def _table(seen: dict[str, Any], rows: list[summary.Row]) -> str:
    lines = [f"{'ms':<16}{'p50':>9}{'p95':>9}{'p99':>9}{'p99.9':>9}"]
    for name in (
        "first_token_ms",
        "direct_ms",
        "added_ms",
        "longest_gap_ms",
        "json_ms",
        "cached_ms",
        "degraded_ms",
        "late_ms",
    ):
        if seen[name]["p50"] is None:
            continue
        spans = [f"{value:.1f}" for value in seen[name].values()]
        lines.append(
            f"{name.removesuffix('_ms').replace('_', ' '):<16}" + "".join(f"{span:>9}" for span in spans)
        )
    lines += [
        "",
        "outcomes: " + ", ".join(f"{count} {name}" for name, count in seen["outcomes"].items() if count),
    ]
    lines += [f"  {count} x {why}" for why, count in seen["why"].items()]
    lines += ["", f"{'objective':<28}{'bound':>9}{'was':>12}"]
    for row in rows:
        value = "nothing" if row.value is None else f"{row.value:g}"
        lines.append(f"{row.name:<28}{row.bound:>9g}{value:>12}  {'held' if row.held else 'NOT HELD'}")
    return "\n".join(lines)


def _write(options: argparse.Namespace, seen: dict[str, Any], rows: list[summary.Row]) -> None:
    report = {
        "at": datetime.datetime.now(datetime.UTC),
        "machine": {
            "system": " ".join(os.uname()[::2]),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
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
    }
    path = options.reports / "load.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    print(f"\nwrote {path} and {path.with_suffix('.html')}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="how long requests are sent (30)")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second, on average (20)")
    parser.add_argument(
        "--mix", default="chat", help="what is asked: a name from loadtests/mixes.toml (chat)"
    )
    parser.add_argument("--seed", default="0", help="of arrivals and questions (0)")
    parser.add_argument("--url", metavar="URL", help="a service that runs already; nothing is started then")
    parser.add_argument(
        "--direct", metavar="URL", help="the OpenAI-like provider behind it, for mixes that ask it too"
    )
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where reports go (reports)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
