"""The commands of development: `.venv/bin/nox -l` lists them (make .venv with `make test`).

Each session has an environment of its own.

Where a program is missing, a session says so and is skipped; under CI=true that is a failure.
"""

import json
import os
import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

# The certificates that this machine trusts, as pip does: uv would bring its own, and fail behind a proxy that
# opens TLS.
os.environ.setdefault("UV_SYSTEM_CERTS", "true")

# Bytecode is kept, or each of the many processes of a test would compile every module anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

CI = os.environ.get("CI") == "true"
PARALLEL = ("-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder")
PAGES = {  # each with the module that prints it, and its arguments
    "docs/prove/complaints.md": ("tests.experiments.complaints",),
    "docs/prove/faults.md": ("tests.experiments.fault_table",),
    "docs/prove/resume.md": ("tests.experiments.resume",),
    "docs/operate/environment.md": ("tests.experiments.environment",),
    "service/web/openapi.json": ("tests.experiments.openapi",),
    ".env.example": ("tests.experiments.environment", "example"),
}


def install(session: nox.Session, *what: str) -> None:
    """Install packages, in the versions of constraints.txt."""
    session.install("--quiet", "-c", "constraints.txt", *what)


def missing(session: nox.Session, what: str) -> None:
    """Say that a program is missing; fail under CI=true."""
    if CI:
        session.error(what)
    session.warn(f"NOT AS THOROUGH AS IN CI: {what}")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and order of the code."""
    install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def audit(session: nox.Session) -> None:
    """Look up known vulnerabilities of the versions in constraints.txt; say loudly if nobody could be asked.

    pip-audit finds nothing where its service knows nothing, as behind a mirror of packages. So each service
    is first asked about a version that is known to be vulnerable.
    """
    session.install("--quiet", "pip-audit")
    folder = Path(session.create_tmp())
    canary = folder / "canary.txt"
    canary.write_text("urllib3==1.24.1\n", encoding="utf-8")
    for service in ("pypi", "osv"):
        if vulnerable(session, service, canary):
            found = vulnerable(session, service, Path("constraints.txt").resolve())
            if found:
                session.error("known vulnerabilities:\n" + "\n".join(found))
            session.log(f"no version of constraints.txt has a vulnerability that {service} knows")
            return
    session.warn("NOT AUDITED: no advisory service answers here; vulnerable packages would not be noticed")


def vulnerable(session: nox.Session, service: str, requirements: Path) -> list[str]:
    """Return the packages of a file that a service knows to be vulnerable; none if it does not answer."""
    report = Path(session.create_tmp()) / f"{service}-{requirements.stem}.json"
    report.unlink(missing_ok=True)
    pinned = ("--no-deps", "--disable-pip", "-r", str(requirements))  # as they are: nothing is installed
    quiet = ("--progress-spinner", "off", "--timeout", "5", "-f", "json", "-o", str(report))
    session.run("pip-audit", "-s", service, *pinned, *quiet, success_codes=[0, 1], silent=True)
    rows = json.loads(report.read_text(encoding="utf-8"))["dependencies"] if report.exists() else []
    return [
        f"{row['name']} {row['version']}: {', '.join(known['id'] for known in row['vulns'])}"
        for row in rows
        if row.get("vulns")
    ]


@nox.session
def types(session: nox.Session) -> None:
    """Check every type, strictly."""
    install(session, "-e", ".[chaos,documents,postgres,redis,sentry,load]", "--group", "dev")
    session.run("mypy", "-p", "dub5")
    session.run("mypy", "--explicit-package-bases", "dashboards", "benchmarks")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite as `make test` does, or pytest with the arguments."""
    install(session, "-e", ".[chaos,documents,postgres,redis,sentry]", "--group", "test")
    session.run("python", "-m", "pytest", *(session.posargs or PARALLEL))


@nox.session
def thorough(session: nox.Session) -> None:
    """Run the long forms of tests that are short in `make test`.

    Ten times the examples of each property, every case of a matrix, 20,000 streams of random upstream bytes.
    """
    install(session, "-e", ".[chaos,documents,postgres,redis,sentry]", "--group", "test")
    session.run(
        "python", "-m", "pytest", "--thorough", "-m", "thorough or hypothesis", *PARALLEL, *session.posargs
    )
    session.run("python", "-m", "tests.experiments.fuzz_upstream", "--streams", "20000", "--seed", "1")


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure which branches of service/ the test suite takes, in the processes that it starts too."""
    install(session, "-e", ".[chaos,documents,postgres,redis,sentry]", "--group", "test", "--group", "dev")
    session.env["COVERAGE_FILE"] = os.path.join(session.create_tmp(), "coverage")
    session.run("python", "-m", "coverage", "erase")
    session.run("python", "-m", "coverage", "run", "-m", "pytest", *(session.posargs or PARALLEL))
    session.run("python", "-m", "coverage", "combine", success_codes=[0, 1])
    session.run("python", "-m", "coverage", "report")


@nox.session
def docs(session: nox.Session) -> None:
    """Check that generated pages are up to date: `-- --write` generates them again."""
    install(session, "-e", ".[chaos,documents,postgres,redis,sentry]", "--group", "test")
    session.run("python", "-m", "dashboards.generate", *(() if session.posargs else ("--check",)))
    for name, command in PAGES.items():
        page = Path(name)
        made = session.run("python", "-m", *command, silent=True)
        if session.posargs:
            page.write_text(made, encoding="utf-8")
        elif page.read_text(encoding="utf-8") != made:
            session.error(f"{page} is not what `python -m {' '.join(command)}` makes: nox -s docs -- --write")


@nox.session
def chaos(session: nox.Session) -> None:
    """Run the scenarios and check them: on virtual time with several seeds, then through a real Toxiproxy.

    Arguments replace that, as in `-- openai-2024-12-04 --engine toxiproxy`.
    """
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
    """Run 200 generated worlds on virtual time: `-- --seeds 20000`, `-- --seed N`, `-- --incidents`."""
    install(session, "-e", ".[chaos]")
    session.run("python", "-m", "dub5", "simulate", *session.posargs)


@nox.session
def load(session: nox.Session) -> None:
    """Run Locust for half a minute and check the objectives; it patches the standard library."""
    install(session, "-e", ".[load]")
    session.run("python", "-m", "dub5.loadtests", *(session.posargs or ("--seconds", "30")))


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks: time as ratios with budgets, then instructions against an older commit.

    Arguments are for pytest, which then runs alone.
    """
    install(session, "-e", ".[chaos,documents,postgres,redis,sentry]", "--group", "test")
    flags = ("-p", "no:cacheprovider", "--benchmark-enable")
    session.run("python", "-m", "pytest", "benchmarks", *flags, *session.posargs)
    if session.posargs:
        return
    if shutil.which("valgrind") is None:
        missing(
            session, "SKIPPED: instruction counts; no valgrind on PATH (Debian, Ubuntu: apt install valgrind)"
        )
    else:
        session.run("python", "-m", "benchmarks.instructions")


@nox.session
def sockets(session: nox.Session) -> None:
    """Measure what WebSockets cost: memory of 5,000 idle ones, the way of messages with 500 that talk."""
    install(session, "-e", ".[chaos,documents,postgres,redis,sentry]", "--group", "test")
    session.run("python", "-m", "benchmarks.sockets", *session.posargs)


@nox.session
def dashboards(session: nox.Session) -> None:
    """Check that the dashboards are as generated, and true about real traffic on a real Prometheus."""
    install(session, "-e", ".[chaos,documents,postgres,redis,sentry]", "--group", "test")
    session.run("python", "-m", "dashboards.generate", "--check")
    if shutil.which("prometheus") is None:
        missing(session, "no prometheus on PATH (Debian, Ubuntu: apt install prometheus)")
    else:
        session.run("python", "-m", "dashboards.verify")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Send random upstream bytes through the service, on virtual time: `-- --streams 100000 --seed N`."""
    install(session, "-e", ".[chaos,documents,postgres,redis,sentry]", "--group", "test")
    session.run(
        "python", "-m", "tests.experiments.fuzz_upstream", *(session.posargs or ("--streams", "100000"))
    )


@nox.session
def fuzz_documents(session: nox.Session) -> None:
    """Read mutated PDFs, Word files and texts under the limits of a reading process: `-- --files 100000`."""
    install(session, "-e", ".[documents]", "--group", "test")
    session.run("python", "-m", "tests.experiments.fuzz_documents", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Send 10,000 streams through one real process; connections, permits and memory must be released."""
    install(session, "-e", ".[chaos,documents,postgres,redis,sentry]", "--group", "test")
    numbers = os.path.join(session.create_tmp(), "soak.json")
    session.run("python", "-m", "benchmarks.soak", *(session.posargs or ("--out", numbers)))


@nox.session
def contract(session: nox.Session) -> None:
    """Run the official packages against simulators and service; write contract.md and deviations.md.

    `-- --short`: the deviations only, in one version of each package; their page is checked, not written.
    """
    install(session, "-e", ".", "uv", "--group", "sdks")
    short = session.posargs == ["--short"]
    if not short:
        session.run("python", "-m", "tests.experiments.contract", *session.posargs)
    session.run("python", "-m", "tests.experiments.deviations", *(() if short else ("--write",)))
