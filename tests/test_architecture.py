"""The rules of the house, held by a test: who may import whom, how long a function is, what goes through which door."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from msgspec import Struct

from service import events
from service.telemetry import metrics

ROOT = Path(__file__).parent.parent
SERVICE = sorted((ROOT / "service").rglob("*.py"))
ALL = [
    path
    for top in ("service", "simulators", "chaos", "loadtests")
    for path in sorted((ROOT / top).rglob("*.py"))
]

# Low to high; peers of one level may import each other as long as no cycle comes of it.
LEVELS = (
    ("service", "service.clock", "service.chat", "service.errors", "service.words"),
    (
        "service.events",
        "service.keys",
        "service.options",
        "service.settings",
        "service.settings_checks",
        "service.settings_file",
        "service.templates",
    ),
    ("service.wire",),
    ("service.providers",),
    ("service.policy", "service.answers", "service.routing", "service.attempt"),
    ("service.gateway",),
    ("service.api", "service.telemetry"),
    ("service.app", "service.generation"),
    ("service.__main__",),
)
MAY_IMPORT = {
    "service": {"service"},
    "simulators": {"simulators", "service.wire.base", "service.chat"},
    "chaos": {"chaos", "service", "simulators"},
    "loadtests": {"loadtests", "chaos", "service", "simulators"},
}
FUNCTION_LINES_MAX = 70

# What is banned in service/, where it is allowed all the same, and what to use instead.
BANNED_MODULES = {
    "time": ({"clock.py"}, "service.clock"),
    "requests": (set(), "the wire"),
}
BANNED_CALLS = {
    "datetime.now": (set(), "service.clock.wall"),
    "datetime.utcnow": (set(), "service.clock.wall"),
    "os.environ": ({"settings_file.py"}, "service.settings_file"),
    "os.getenv": ({"settings_file.py"}, "service.settings_file"),
    "httpx.AsyncClient": ({"httpx_wire.py"}, "a Wire"),
    "aiohttp.ClientSession": ({"aiohttp_wire.py"}, "a Wire"),
    "asyncio.to_thread": (set(), "nothing: no thread on the request path"),
}
BLIND_EXCEPT_ALLOWED = {"attempt/run.py", "api/errors.py"}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Every module imported at run time, with the statement; names of packages are resolved to their modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if _exists(inner) else node.module), node


def _exists(module: str) -> bool:
    base = ROOT.joinpath(*module.split("."))
    return base.with_suffix(".py").exists() or (base / "__init__.py").exists()


def level_of(module: str) -> int:
    levels = {name: level for level, names in enumerate(LEVELS) for name in names}
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in levels and (name != "service" or module == "service"):
            return levels[name]
    raise AssertionError(f"{module} has no level: give it one in LEVELS")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SERVICE, ids=named)
def test_levels(path: Path) -> None:
    """No file of the service imports from above; what must call upward is handed in by app.py."""
    module = module_of(path)
    above = [m for m, _ in imports_of(path) if m.startswith("service") and level_of(m) > level_of(module)]
    assert not above, f"{module} imports from a higher level: {above}"


@pytest.mark.parametrize("path", ALL, ids=named)
def test_houses(path: Path) -> None:
    """The service knows none of the others; the simulators know only what lets them stand beside any gateway."""
    allowed = MAY_IMPORT[module_of(path).partition(".")[0]]
    for module, _ in imports_of(path):
        if module.partition(".")[0] in (*MAY_IMPORT, "tests", "benchmarks", "dashboards"):
            assert any(module == a or module.startswith(a + ".") for a in allowed), f"may not import {module}"


def test_no_cycles() -> None:
    """The graph of files has no cycle."""
    graph = {module_of(path): {m for m, _ in imports_of(path) if _exists(m)} for path in ALL}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"cycle: {' -> '.join((*way[way.index(module) :], module))}"
        if module not in done:
            for other in sorted(graph.get(module, ())):
                if other != module:
                    visit(other, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", ALL, ids=named)
def test_functions(path: Path) -> None:
    """A function fits on a screen, and imports nothing of ours inside."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{node.name} has {lines} lines"
            for inner in ast.walk(node):
                if isinstance(inner, ast.ImportFrom | ast.Import):
                    source = getattr(inner, "module", None) or inner.names[0].name
                    assert source.partition(".")[0] not in MAY_IMPORT, f"{node.name} imports {source} inside"


@pytest.mark.parametrize("path", SERVICE, ids=named)
def test_doors(path: Path) -> None:
    """Time, chance, the environment and the network come in through one door each."""
    for module, _ in imports_of(path):
        allowed, instead = BANNED_MODULES.get(module, ({path.name}, ""))
        assert path.name in allowed, f"imports {module}; use {instead}"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            said = f"{node.value.id}.{node.attr}"
            allowed, instead = BANNED_CALLS.get(said, ({path.name}, ""))
            assert path.name in allowed, f"line {node.lineno}: {said}; use {instead}"
            seeded = node.value.id != "random" or node.attr == "Random"
            assert seeded, f"line {node.lineno}: {said}; use an injected random.Random"


@pytest.mark.parametrize("path", SERVICE, ids=named)
def test_blind_excepts(path: Path) -> None:
    """Only the two edges may swallow what they do not know; others may clean up and raise it again."""
    if "/".join(path.parts[-2:]) in BLIND_EXCEPT_ALLOWED:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            blind = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            again = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            assert again or not blind, f"line {node.lineno} swallows everything"


def test_every_event_is_heard() -> None:
    """A fact that nobody counts is either in the log on purpose, or forgotten."""
    kinds = set(get_args(events.Event))
    assert metrics.COUNTED | metrics.LOG_ONLY == kinds
    assert not metrics.COUNTED & metrics.LOG_ONLY
    assert kinds == {kind for _, kind in inspect.getmembers(events, inspect.isclass) if _is_event(kind)}


def _is_event(kind: type) -> bool:
    return kind.__module__ == "service.events" and issubclass(kind, Struct)
