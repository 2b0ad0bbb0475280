"""The verbs of this house: `.venv/bin/nox -l` (make .venv with `make test`). Each has an environment of its own.

Where a program is missing, a session says so and is skipped; under CI=true that is a failure.
"""

import os
import shutil

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

# The certificates that this machine trusts, as pip does: uv would bring its own, and fail behind a company's proxy.
os.environ.setdefault("UV_SYSTEM_CERTS", "true")

CI = os.environ.get("CI") == "true"


def install(session: nox.Session, *what: str) -> None:
    """Packages, in the versions of constraints.txt."""
    session.install("--quiet", "-c", "constraints.txt", *what)


def missing(session: nox.Session, what: str) -> None:
    """A program is not there."""
    if CI:
        session.error(what)
    session.warn(f"NOT AS THOROUGH AS IN CI: {what}")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and order of the code."""
    install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Every type, strictly."""
    install(session, "-e", ".[chaos,redis,load]", "--group", "dev")
    session.run("mypy", "-p", "dub5")
    session.run("mypy", "--explicit-package-bases", "dashboards", "benchmarks")


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, as `make test` runs it; arguments go to pytest."""
    install(session, "-e", ".[chaos,redis]", "--group", "test")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """The scenarios, judged: on virtual time with several seeds, then through a real Toxiproxy; or what the arguments say,
    as `-- openai-2024-12-04 --engine toxiproxy`."""
    install(session, "-e", ".[chaos]")
    if not session.run("python", "-m", "dub5.chaos.engines.find_toxiproxy", success_codes=[0, 1]):
        missing(session, "no Toxiproxy; the simulators play the TCP faults")
    if session.posargs:
        session.run("python", "-m", "dub5", "chaos", *session.posargs)
        return
    session.run("python", "-m", "dub5", "chaos", "--engine", "virtual", "--seed", "1", "--runs", "3")
    session.run("python", "-m", "dub5", "chaos", "--engine", "toxiproxy", "--seed", "1")


@nox.session
def simulate(session: nox.Session) -> None:
    """The whole service against 200 drawn worlds, on virtual time: `-- --seeds 20000`, `-- --seed N`, `-- --incidents`."""
    install(session, "-e", ".[chaos]")
    session.run("python", "-m", "dub5", "simulate", *session.posargs)


@nox.session
def load(session: nox.Session) -> None:
    """Load, held to objectives: half a minute, or what the arguments say. Locust patches what it meets, so it lives apart."""
    install(session, "-e", ".[load]")
    session.run("python", "-m", "dub5.loadtests", *(session.posargs or ("--seconds", "30")))


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks, as ratios within one process."""
    install(session, "-e", ".[chaos,redis]", "--group", "test")
    flags = ("-p", "no:cacheprovider", "--benchmark-enable")
    session.run("python", "-m", "pytest", "benchmarks", *flags, *session.posargs)


@nox.session
def instructions(session: nox.Session) -> None:
    """Processor instructions of a request, counted by callgrind: `-- --checkout DIR` compares two checkouts."""
    install(session, "-e", ".[test]")
    if shutil.which("valgrind") is None:
        missing(session, "no valgrind on PATH (Debian, Ubuntu: apt install valgrind)")
    else:
        session.run("python", "-m", "benchmarks.instructions", *session.posargs)


@nox.session
def dashboards(session: nox.Session) -> None:
    """Whether the dashboards are what the generator makes, and tell the truth about real traffic on a real Prometheus."""
    install(session, "-e", ".[chaos,redis]", "--group", "test")
    session.run("python", "-m", "dashboards.generate", "--check")
    if shutil.which("prometheus") is None:
        missing(session, "no prometheus on PATH (Debian, Ubuntu: apt install prometheus)")
    else:
        session.run("python", "-m", "dashboards.verify")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Random upstream bytes through the whole service, on virtual time: `-- --streams 100000 --seed N`."""
    install(session, "-e", ".[chaos,redis]", "--group", "test")
    session.run(
        "python", "-m", "tests.experiments.fuzz_upstream", *(session.posargs or ("--streams", "100000"))
    )


@nox.session
def soak(session: nox.Session) -> None:
    """Ten thousand streams through one real process: connections, permits and memory come back. About two minutes."""
    install(session, "-e", ".[chaos,redis]", "--group", "test")
    numbers = os.path.join(session.create_tmp(), "soak.json")
    session.run("python", "-m", "benchmarks.soak", *(session.posargs or ("--out", numbers)))


@nox.session
def contract(session: nox.Session) -> None:
    """Run the official packages against simulators and service; write docs/prove/contract.md."""
    install(session, "-e", ".", "uv")
    session.run("python", "-m", "tests.contract", *session.posargs)
