"""The pages about the code stay true: what they name exists, and a type name stands for one thing.

Each test reads every page, or every file, and lists all offenders at once.
"""

import ast
import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from dub5.cli import VERBS
from dub5.service.telemetry import names
from tests.support.levels import LEVELS
from tests.support.source import ROOT

ARCHITECTURE = "docs/architecture.md"
PAGES = (
    ARCHITECTURE,
    "docs/glossary.md",
    "docs/decisions/0005-one-import-name.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *(f"docs/phases/{name}.md" for name in ("1-diagnosis", "2-reliability", "3-trust", "4-scale")),
)
TOPS = ("service", "simulators", "chaos", "loadtests", "benchmarks", "dashboards")
METRICS = {metric.prometheus_name for metric in names.ALL}
USED_TWICE: dict[str, str] = {}  # public type names, each with the reason; five at most

FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?!/|\.\.)\S*/\S*|\S+\.(?:py|md|toml|yml|txt)")
NAMES_IN_FILE = re.compile(r"((?:`[\w.]+`(?:,\s+|\s+and\s+)?)+)\s+in\s+`(\S+?\.py)`")
WORD = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(name: str) -> str:
    """Return a page without its fenced blocks."""
    return FENCED.sub("", page(name))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def sources() -> tuple[Path, ...]:
    """Return every file whose names a page may use: not the experiments, which quote old words."""
    found = [path for folder in (*TOPS, "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
    found += [*(ROOT / "src" / "dub5").glob("*.py"), ROOT / "noxfile.py"]
    return tuple(path for path in found if "experiments" not in path.parts)


@cache
def defined_in(path: Path) -> frozenset[str]:
    """Return what a file defines: `function`, `CONSTANT`, `Class`, `Class.member`."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            match node:
                case ast.ClassDef():
                    yield node.name
                    yield from walk(node.body, f"{node.name}.")
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    yield prefix + node.name
                    if prefix:
                        yield from (prefix + name for name in own_attributes(node))
                case ast.Assign():
                    names = (name for target in node.targets for name in ast.walk(target))
                    yield from (prefix + name.id for name in names if isinstance(name, ast.Name))
                case ast.AnnAssign(target=ast.Name(id=name)):
                    yield prefix + name

    return frozenset(walk(tree_of(path).body, ""))


def own_attributes(method: ast.AST) -> Iterator[str]:
    """Yield what a method sets on `self`."""
    for node in ast.walk(method):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def words_of(tree: ast.Module) -> Iterator[str]:
    """Yield the words of the code: identifiers, and strings without a space; no prose."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.alias(name=module):
                yield from module.split(".")
            case ast.Constant(value=str(text)) if not re.search(r"\s", text):
                yield from re.findall(r"\w+", text)


def test_paths() -> None:
    """Every path that a page names is there."""
    gone = [
        f"{name}: {span}"
        for name in PAGES
        for span in SPAN.findall(prose(name))
        if PATH.fullmatch(span) and not (ROOT / span).exists()
    ]
    assert not gone, "\n".join(gone)


def test_names_with_a_file() -> None:
    """`Name` in `path`: the file defines that name."""
    gone, seen = [], 0
    for name in PAGES:
        for words, path in NAMES_IN_FILE.findall(prose(name)):
            for word in SPAN.findall(words):
                seen += 1
                if not (ROOT / path).exists() or word not in defined_in(ROOT / path):
                    gone.append(f"{name}: {word} in {path}")
    assert not gone, "\n".join(gone)
    assert seen > 100, "the pages say it in another way now, which this test does not read"


def test_other_names() -> None:
    """Every other name that a page writes as code is a word of the sources: none outlives what it named."""
    named = [
        (f"{name}: {span}", set(span.split(".")))
        for name in PAGES
        for span in SPAN.findall(prose(name))
        if WORD.fullmatch(span) and not PATH.fullmatch(span)
    ]
    alerts = re.findall(r"- alert: (\w+)", page("dashboards/alerts.yml"))
    unknown = set().union(*(words for _, words in named)) - {*alerts, *METRICS}
    for path in sources():  # most words are found in the first files: the others need not be read
        if unknown & set(re.findall(r"\w+", path.read_text(encoding="utf-8"))):
            unknown -= set(words_of(tree_of(path)))
    gone = [span for span, words in named if words & unknown]
    assert not gone, "\n".join(gone)


def test_every_room_is_on_the_map() -> None:
    """Each package of the service and the harness has its row in docs/architecture.md."""
    rows = set(re.findall(r"^\| `(\S+)/` \|", page(ARCHITECTURE), re.MULTILINE))
    packages = {str(p.parent.relative_to(ROOT)) for top in TOPS for p in (ROOT / top).rglob("__init__.py")}
    assert not packages - rows, f"without a row: {sorted(packages - rows)}"


def test_the_sentence_about_the_layers() -> None:
    """It names the layers in the order that test_architecture.py holds, and leaves no folder out."""
    (sentence,) = re.findall(r"^\*(\w+ ->.*?)\.\*", page(ARCHITECTURE), re.MULTILINE | re.DOTALL)
    named = re.split(r" -> |, ", re.sub(r"\s+", " ", re.sub(r"\(.*?\)", "", sentence)))
    named = [name.strip().replace(" ", "_") for name in named]
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    assert sorted(named, key=level.__getitem__) == named
    folders = {path.parent.name for path in (ROOT / "service").glob("*/__init__.py")}
    assert folders - set(named) == {"config"}, "which the next sentence places"


def test_commands() -> None:
    """Every nox session, make target, verb and module that a page tells to run exists."""
    sessions = {
        node.name
        for node in tree_of(ROOT / "noxfile.py").body
        if isinstance(node, ast.FunctionDef) and any("session" in ast.unparse(d) for d in node.decorator_list)
    }
    targets = set(re.findall(r"^(\w+):", page("Makefile"), re.MULTILINE))
    gone = []
    for name in PAGES:
        text = page(name)
        named = [word for words in re.findall(r"nox -s ((?:\w+ ?)+)", text) for word in words.split()]
        gone += [f"{name}: nox -s {word}" for word in named if word not in sessions]
        gone += [
            f"{name}: make {word}"
            for word in re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE)
            if word not in targets
        ]
        gone += [
            f"{name}: dub5 {word}"
            for word in re.findall(r"(?:-m |`|bin/)dub5 (\w+)", text)
            if word not in VERBS
        ]
        gone += [
            f"{name}: -m {word}" for word in re.findall(r"-m ([\w.]+\w)", text) if not module_exists(word)
        ]
    assert not gone, "\n".join(gone)


def module_exists(name: str) -> bool:
    """Return whether `python -m` finds a module, without importing it."""
    head, *rest = name.split(".")
    base = ROOT.joinpath("src" if head == "dub5" else "", head, *rest)
    if base.with_suffix(".py").exists() or (base / "__main__.py").exists():
        return True
    return not (ROOT / head).exists() and head != "dub5" and importlib.util.find_spec(name) is not None


def test_a_type_name_stands_for_one_thing() -> None:
    """No name of a public class, or alias of a type, is used twice in the service and the harness."""
    places: dict[str, list[str]] = defaultdict(list)
    for top in TOPS:
        for path in sorted((ROOT / top).rglob("*.py")):
            for name, line in type_names(tree_of(path)):
                places[name].append(f"{path.relative_to(ROOT)}:{line}")
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert len(USED_TWICE) <= 5 and set(USED_TWICE) <= set(twice)
    wrong = [f"{name}: {', '.join(where)}" for name, where in twice.items() if name not in USED_TWICE]
    assert not wrong, "\n".join(wrong)


def type_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield public classes wherever they stand, and CamelCase names that a module assigns, with lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node.lineno
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) if re.match(r"[A-Z]\w*[a-z]", name):
                yield name, node.lineno
