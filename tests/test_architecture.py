"""The rules of the house: who may import whom, how long a function is, what goes through which door.

Each test reads every file and lists all offenders at once.
"""

import ast
import inspect
import re
import sys
from collections import defaultdict
from typing import get_args

from msgspec import Struct

from dub5.service import events
from dub5.service.optional_parts import PARTS as OPTIONAL_PARTS
from dub5.service.optional_parts import load_part
from dub5.service.telemetry import event_tables
from dub5.service.telemetry.board import StatusBoard
from dub5.service.telemetry.logs import EventLogger
from dub5.service.telemetry.metrics import Metrics
from dub5.service.telemetry.request_metrics import RequestMetrics
from tests.support.levels import LEVELS
from tests.support.source import PARTS, ROOT, Source, is_ours, sources

MAY_IMPORT = {
    "service": {"service"},
    "simulators": {"simulators", "service.wire.base", "service.store", "service.model"},
    "chaos": {"chaos", "service", "simulators"},
    "loadtests": {"loadtests", "chaos", "service", "simulators"},
}
FUNCTION_LINES_MAX = 70

# What is banned in service/, where it is allowed all the same, and what to use instead.
BANNED_MODULES = {
    "time": ({"clock.py"}, "dub5.service.clock"),
    "requests": (set(), "the wire"),
    "urllib.request": (set(), "the wire"),
    "http.client": (set(), "the wire"),
    "smtplib": (set(), "the wire"),
    "multiprocessing": (set(), "nothing: no thread and no process on the request path"),
    "concurrent.futures": (set(), "nothing: no thread on the request path"),
    "threading": ({"sqlite.py"}, "nothing: no thread on the request path"),
}
BANNED_CALLS = {
    "datetime.now": (set(), "dub5.service.clock.wall"),
    "datetime.utcnow": (set(), "dub5.service.clock.wall"),
    "os.environ": ({"load.py"}, "dub5.service.config.load"),
    "os.getenv": ({"load.py"}, "dub5.service.config.load"),
    "httpx.AsyncClient": ({"httpx_wire.py"}, "a Wire"),
    "aiohttp.ClientSession": (set(), "a Wire"),
    "asyncio.to_thread": (set(), "nothing: no thread on the request path"),
}
BLIND_EXCEPT_ALLOWED = {
    "service/failover/loop.py",
    "service/failover/target_attempts.py",
    "service/api/errors.py",
}


def service() -> list[Source]:
    return [source for source in sources() if source.part == "service"]


def level_of(module: str) -> int:
    """Return the level of a module of the service: that of its longest prefix in LEVELS."""
    levels = {name: level for level, names in enumerate(LEVELS) for name in names}
    parts = module.split(".")[2:]
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in levels:
            return levels[name]
    assert not parts, f"{module} has no level: give it one in LEVELS"
    return levels[""]


def test_levels() -> None:
    """No file of the service imports from above; what must call upward is handed in by app.py."""
    above = [
        f"{source.name} imports {module}"
        for source in service()
        for module in source.imports
        if module.startswith("dub5.service") and level_of(module) > level_of(source.module)
    ]
    assert not above, "\n".join(above)


def test_parts() -> None:
    """The service knows none of the others; the simulators know only what any gateway needs."""
    wrong = []
    for source in sources():
        allowed = [f"dub5.{name}" for name in MAY_IMPORT[source.part]]
        for module in source.imports:
            if module.partition(".")[0] in ("dub5", *PARTS, "tests", "benchmarks", "dashboards") and not any(
                module == name or module.startswith(name + ".") for name in allowed
            ):
                wrong.append(f"{source.name} may not import {module}")
    assert not wrong, "\n".join(wrong)


def test_no_cycles() -> None:
    """The graph of files has no cycle."""
    graph = {source.module: [m for m in source.imports if is_ours(m)] for source in sources()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"cycle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for other in sorted(graph.get(module, ())):
                if other != module:
                    visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_folders() -> None:
    """No two folders import each other."""
    folder_of = {source.module: source.folder for source in sources()}
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for source in sources():
        for module in source.imports:
            there = folder_of.get(module)
            if there is not None and there != source.folder:
                reasons[source.folder, there].append(f"{source.name} imports {module}")
    both = [
        f"{here} <-> {there}:\n  " + "\n  ".join((*reasons[here, there], *reasons[there, here]))
        for here, there in sorted(reasons)
        if here < there and (there, here) in reasons
    ]
    assert not both, "\n".join(both)


def test_functions() -> None:
    """A function fits on a screen, and imports nothing of ours inside."""
    wrong = []
    for source in sources():
        for node in source.functions():
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                wrong.append(f"{source.name}: {node.name} has {lines} lines")
            for inner in ast.walk(node):
                if isinstance(inner, ast.ImportFrom | ast.Import):
                    module = getattr(inner, "module", None) or inner.names[0].name
                    if module.partition(".")[0] == "dub5":
                        wrong.append(f"{source.name}: {node.name} imports {module} inside")
    assert not wrong, "\n".join(wrong)


def test_doors() -> None:
    """Time, chance, the environment and the network come in through one door each."""
    wrong = []
    for source in service():
        file = source.path.name
        for module in source.imports:
            allowed, instead = BANNED_MODULES.get(module, ({file}, ""))
            if file not in allowed:
                wrong.append(f"{source.name} imports {module}; use {instead}")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                allowed, instead = BANNED_CALLS.get(name, ({file}, ""))
                if node.value.id == "random" and node.attr != "Random":
                    allowed, instead = set(), "an injected random.Random"
                if file not in allowed:
                    wrong.append(f"{source.name}, line {node.lineno}: {name}; use {instead}")
    assert not wrong, "\n".join(wrong)


def test_optional_parts() -> None:
    """A part that only some settings choose is imported by its table; nothing else is imported by name."""
    optional = {module for module, _ in OPTIONAL_PARTS.values()}
    wrong = [f"{source.name} imports {m}" for source in service() for m in source.imports if m in optional]
    wrong += [
        f"{source.name} imports importlib"
        for source in service()
        if "importlib" in source.imports and source.path.name != "optional_parts.py"
    ]
    assert not wrong, "\n".join(wrong)
    for name in OPTIONAL_PARTS:
        assert isinstance(load_part(name), type)


def test_blind_excepts() -> None:
    """Only the two edges may swallow what they do not know; others may clean up and raise it again."""
    wrong = []
    for source in service():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ExceptHandler) and source.name not in BLIND_EXCEPT_ALLOWED:
                blind = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
                again = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
                if blind and not again:
                    wrong.append(f"{source.name}, line {node.lineno} swallows everything")
    assert not wrong, "\n".join(wrong)


def test_every_event_is_heard() -> None:
    """Each subscriber has a method or a row for each event; what nobody counts is listed as such."""
    kinds = {kind for _, kind in inspect.getmembers(events, inspect.isclass) if _is_event(kind)}
    assert kinds == set(get_args(events.Event))
    tables = (
        (
            Metrics.METHODS.keys() | RequestMetrics.METHODS.keys(),
            event_tables.COUNTS.keys() | event_tables.LOG_ONLY,
        ),
        (StatusBoard.METHODS, event_tables.HAPPENED),
        (EventLogger.METHODS, event_tables.LINES),
    )
    for methods, rows in tables:
        assert kinds == set(methods) | set(rows)
        assert not set(methods) & set(rows)


def _is_event(kind: type) -> bool:
    return kind.__module__ == events.__name__ and issubclass(kind, Struct)


def test_one_import_name() -> None:
    """Whatever the suite has imported so far, it came as `dub5`: an application's own `service` is safe."""
    assert not {name.partition(".")[0] for name in sys.modules} & set(PARTS)


def test_test_modules() -> None:
    """Nothing is imported from a test module: shared helpers lie in tests/support/ or in other modules."""
    imports = re.compile(r"\bfrom tests\.(?:\w+\.)*test_\w+ import\b|\bimport tests\.(?:\w+\.)*test_\w+")
    files = [file for room in ("tests", "benchmarks", "dashboards") for file in (ROOT / room).rglob("*.py")]
    wrong = [
        f"{file.relative_to(ROOT)}: {found}" for file in files for found in imports.findall(file.read_text())
    ]
    assert not wrong, "\n".join(wrong)
