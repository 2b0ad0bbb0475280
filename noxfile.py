"""Every check by name. `nox -l` lists them; `nox -s chaos load` runs some."""

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

PINNED = ("-c", "constraints.txt")
TYPED = ("service", "simulators", "chaos", "loadtests")


def install(session: nox.Session, *what: str) -> None:
    """The pinned versions, and nothing else."""
    session.install(*PINNED, *what)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: rules and format."""
    install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict."""
    install(session, "-e", ".[dev,load]")
    session.run("mypy", *TYPED)


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite; arguments go to pytest."""
    install(session, "-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """The scenarios, through a real Toxiproxy and in virtual time. Arguments: names of scenarios."""
    install(session, "-e", ".[chaos]")
    for engine in ("virtual", "toxiproxy"):
        session.run("python", "-m", "chaos", "chaos", "--engine", engine, *session.posargs)


@nox.session
def load(session: nox.Session) -> None:
    """30 seconds of Locust against the thresholds in loadtests/slo.toml."""
    install(session, "-e", ".[chaos,load]")
    session.run("python", "-m", "loadtests", *(session.posargs or ("--seconds", "30")))


@nox.session
def bench(session: nox.Session) -> None:
    """What a request costs, as ratios against benchmarks/budgets.toml."""
    install(session, "-e", ".[test]")
    session.run("pytest", "benchmarks", "--benchmark-enable", "--benchmark-columns=min,median,rounds", *session.posargs)


@nox.session
def dashboards(session: nox.Session) -> None:
    """Whether the committed dashboards are what the generator makes."""
    install(session, "-e", ".[test]")
    session.run("python", "-m", "dashboards.generate", "--check")
