"""The documentation cannot drift: settings, error codes and reasons have their lines, and examples run."""

import re
import tomllib
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin

import msgspec

from dub5.service.config import options
from dub5.service.config.load import load
from dub5.service.config.options import (
    CacheBounds,
    CacheOptions,
    DegradedOptions,
    LimitOptions,
    LimitsOptions,
    RedisOptions,
    SanitizeOptions,
    TimeoutOptions,
)
from dub5.service.config.settings import Settings, SettingsProblems
from dub5.service.errors import every_error
from dub5.service.events import Event
from dub5.service.telemetry import names
from dub5.service.telemetry.attempt_views import AttemptRow
from dub5.service.telemetry.board import COUNTERS
from dub5.service.telemetry.logs import RequestLine
from tests.support.source import ROOT

DOCS = ROOT / "docs"
README = DOCS.parent / "README.md"
TOML = r"```toml\n(.*?)```"
LINK = r"\]\(([^)#:]+)(?:#[^)]*)?\)"


def settings_of(kind: type[msgspec.Struct], where: str = "") -> list[str]:
    found = []
    for field in msgspec.structs.fields(kind):
        name = f"{where}.{field.name}" if where else field.name
        inner = get_args(field.type)[0] if get_origin(field.type) in (tuple, UnionType) else field.type
        nested = isinstance(inner, type) and issubclass(inner, msgspec.Struct)
        found += settings_of(inner, name) if nested else [name]
    return found


def text_of(name: str) -> str:
    """Return the text of the page of this name, wherever it lies in docs/."""
    (path,) = DOCS.rglob(name)
    return path.read_text()


def pages() -> list[Path]:
    """Return every page, README.md among them."""
    return [README, *sorted(DOCS.rglob("*.md"))]


def test_settings() -> None:
    """Every setting has a row that says what it does."""
    assert [name for name in settings_of(Settings) if f"| `{name}` |" not in text_of("settings.md")] == []


def test_error_codes() -> None:
    """Every code a client may meet has a row that says what to do."""
    codes = {error.code for error in every_error()}
    assert sorted(code for code in codes if f"| `{code}` |" not in text_of("errors.md")) == []


def test_every_code_is_raised() -> None:
    """No code is documented that nobody can meet: each error is created somewhere in the service, by name."""
    code = "\n".join(path.read_text() for path in (ROOT / "service").rglob("*.py"))
    created = set(re.findall(r"(?<!class )\b(\w+)\(", code))
    assert [kind.code for kind in every_error() if kind.__name__ not in created] == []


def test_reasons() -> None:
    """Every reason in a trail is explained; the numbered ones by their pattern."""

    def is_explained(reason: str) -> bool:
        general = re.sub(r"^http_\d+$", "http_<status>", reason)
        general = re.sub(r"^(pool|resolve|connect|send|wait|body)_[a-z]+$", "<stage>_<kind>", general)
        return f"| `{reason}` |" in said or f"| `{general}` |" in said

    said = text_of("reasons.md")
    assert sorted(reason for reason in names.REASONS if not is_explained(reason)) == []


def test_toml_examples(tmp_path: Path) -> None:
    """Settings files shown in the documentation can be used as they stand."""
    file, wrong = tmp_path / "dub5.toml", []
    examples = [(path, block) for path in pages() for block in re.findall(TOML, path.read_text(), re.DOTALL)]
    for path, block in examples:
        file.write_text(block)
        try:
            if tomllib.loads(block) and "[[provider]]" in block and "[[route]]" in block:
                load(file, dict.fromkeys(re.findall(r'"([A-Z][A-Z0-9_]+)"', block), "key-of-an-example"))
        except (SettingsProblems, tomllib.TOMLDecodeError) as error:
            wrong.append(f"{path.name}: {error}\n{block}")
    assert len(examples) > 10
    assert not wrong, "\n".join(wrong)


def test_links() -> None:
    """Links to files of the repository lead somewhere."""
    links = [(path, target) for path in pages() for target in re.findall(LINK, path.read_text())]
    assert len(links) > 100
    assert [f"{path.name}: {target}" for path, target in links if not (path.parent / target).exists()] == []


def test_readme() -> None:
    """The README has each part that a reader looks for, and the architecture as a diagram."""
    text = README.read_text()
    parts = re.findall(r"^## (.*)$", text, re.MULTILINE)
    wanted = ["Overview", "Architecture", "Stack", "Prerequisites", "Setup", "Database", "Running", "API"]
    wanted += ["WebSocket", "Configuration", "Testing", "Troubleshooting"]
    assert [part for part in parts if part in wanted] == wanted
    (diagram,) = re.findall(r"^```mermaid\nflowchart TD\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert "failover" in diagram
    assert len(text.splitlines()) < 300


def linked(page: Path) -> set[Path]:
    """Return the pages that a page links to, of those that exist."""
    targets = re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", page.read_text())
    return {path for target in targets if (path := (page.parent / target).resolve()).exists()}


def test_every_page_is_reachable() -> None:
    """Links lead from docs/README.md to every page of the documentation."""
    docs = DOCS.resolve()
    reached: set[Path] = set()
    new = {docs / "README.md"}
    while new:
        reached |= new
        new = {target for page in new for target in linked(page)} - reached
    assert sorted(str(page.relative_to(docs)) for page in {*docs.rglob("*.md")} - reached) == []


HOLDER = r"^(Ablation|Test)s?: "
INTRODUCTION = ("From symptom to setting",)
ANATOMY = ["What it does", "Defaults", "What you see", "How to tune", "When not to"]
NOT_OF_RELIABILITY = (
    *(CacheOptions, RedisOptions, CacheBounds, DegradedOptions, SanitizeOptions),
    *(LimitOptions, LimitsOptions),  # docs/use/limits.md
)
WHERE = {TimeoutOptions: "route.timeouts"} | {
    field.type: field.name for field in msgspec.structs.fields(Settings)
}
OPTIONS = [
    (f"{WHERE[kind]}.{field.name}", field.default)
    for kind in vars(options).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == options.__name__
    if kind not in NOT_OF_RELIABILITY
    for field in msgspec.structs.fields(kind)
]
TELEMETRY = ("board", "logs", "event_tables", "attempt_views", "costs")
SOURCES = ("api/ops", *(f"telemetry/{name}" for name in TELEMETRY))


def mechanisms() -> dict[str, str]:
    """The sections of the page that describe one, by name."""
    sections = re.split(r"^## ", text_of("reliability.md"), flags=re.MULTILINE)[1:]
    named = {name: text for name, _, text in (section.partition("\n") for section in sections)}
    return {name: text for name, text in named.items() if name not in INTRODUCTION}


def seen(line: str) -> list[str]:
    """What stands in code under "What you see", in lines that begin with this word."""
    lines = re.findall(rf"^- {line}: (.*)$", text_of("reliability.md"), re.MULTILINE)
    return [word for line in lines for word in re.findall(r"`([^`]+)`", line)]


def shown(value: object) -> str:
    """A default as the page writes it."""
    if isinstance(value, bool) or value in ((), {}, None):
        return str(value).lower() if isinstance(value, bool) else "none"
    return f"{value:,.10g}" if isinstance(value, int | float) else str(value)


def default_of(setting: str) -> object:
    """What a setting is where nobody says anything; its name as in docs/use/settings.md."""
    kind: type[msgspec.Struct] = Settings
    *tables, name = setting.split(".")
    for table in tables:
        (field,) = (field for field in msgspec.structs.fields(kind) if field.name == table)
        kind = get_args(field.type)[0] if get_origin(field.type) is tuple else field.type
    (field,) = (field for field in msgspec.structs.fields(kind) if field.name == name)
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


class TestReliability:
    def test_every_option(self) -> None:
        """Each setting of a mechanism stands in exactly one table of defaults, with its source."""
        rows = re.findall(
            r"^\| `([a-z0-9_.]+)` \| [^|]+ \| [^|]+ \|$", text_of("reliability.md"), re.MULTILINE
        )
        assert [name for name, _ in OPTIONS if rows.count(name) != 1] == []

    def test_defaults_are_true(self) -> None:
        """Whatever a table of defaults says, of a setting or of a fixed number, is so."""
        page = text_of("reliability.md")
        settings = re.findall(r"^\| `([a-z_]+(?:\.[a-z_]+)+)` \| ([^|]+) \|", page, re.MULTILINE)
        fixed = re.findall(r"^\| `([A-Z_]+)` in `([a-z_/]+)\.py` \| ([^|]+) \|", page, re.MULTILINE)
        told = dict(settings) | {f"{file}:{name}": v for name, file, v in fixed}
        true = {name: shown(default_of(name)) for name, _ in settings}
        for name, file, _ in fixed:
            true[f"{file}:{name}"] = shown(getattr(import_module("dub5." + file.replace("/", ".")), name))
        assert len(told) > len(OPTIONS)
        assert told == true

    def test_anatomy(self) -> None:
        """Each mechanism is described in the same five parts, and says which test holds it."""
        parts = {name: re.findall(r"^### (.*)$", text, re.MULTILINE) for name, text in mechanisms().items()}
        held = {name for name, text in mechanisms().items() if re.search(HOLDER, text, re.MULTILINE)}
        assert parts == dict.fromkeys(mechanisms(), ANATOMY)
        assert set(mechanisms()) - held == set()

    def test_trail(self) -> None:
        """Reasons and kinds exist, and each reason for passing over a target is somewhere on the page."""
        rows = {"attempts", "maybe_billed"}
        assert set(seen("Trail")) <= names.REASONS | names.PASSED_OVER_REASONS | names.ATTEMPT_KINDS | rows
        assert names.PASSED_OVER_REASONS - {"retry_budget_spent"} <= set(seen("Trail"))

    def test_metrics(self) -> None:
        """Metrics named anywhere on the page exist, with the labels that are said of them."""
        metrics = {metric.prometheus_name for metric in names.ALL}
        labels = {label for metric in names.ALL for label in metric.labels}
        page = text_of("reliability.md")
        assert set(re.findall(r"`((?:gateway|gen_ai|process)_[a-z_]+)`", page)) <= metrics
        assert set(seen("Metrics")) <= metrics | labels

    def test_events(self) -> None:
        """Events exist."""
        named = {word for word in seen("Events") if word[0].isupper()}
        assert named <= {kind.__name__ for kind in get_args(Event)}

    def test_happened(self) -> None:
        """What /status counts, it counts."""
        assert set(seen("Happened")) <= set(COUNTERS)

    def test_fields(self) -> None:
        """Fields of /status and of the log stand in the files that write them."""
        text = "".join((DOCS.parent / f"service/{file}.py").read_text() for file in SOURCES)
        states = {*names.BREAKER_LEVEL, *names.HEALTH_LEVEL, "/health?deep=true"}
        known = set(re.findall(r'"([a-z_]+)"', text)) | set(re.findall(r"\b([a-z_]+)=", text)) | states
        known |= {field.name for row in (RequestLine, AttemptRow) for field in msgspec.structs.fields(row)}
        assert set(seen("Status")) | set(seen("Log")) <= known
