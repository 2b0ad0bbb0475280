"""The project's own source, parsed once: what the tests of its structure read."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = ("service", "simulators", "chaos", "loadtests")  # the parts of `dub5`


class Source:
    """One module of `dub5`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        self.name = str(path.relative_to(ROOT))
        parts = path.relative_to(ROOT).with_suffix("").parts
        self.module = ".".join(("dub5", *(parts[:-1] if parts[-1] == "__init__" else parts)))
        self.part = parts[0]
        # The folder of the module, as a package; a module at the top of its part stands for itself.
        self.folder = ".".join(("dub5", *parts[:-1])) if len(parts) > 2 else self.module
        self.imports = tuple(dict.fromkeys(module for module, _ in self._imports()))

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Yield every function and method."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node

    def _imports(self) -> Iterator[tuple[str, ast.stmt]]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield (inner if is_ours(inner) else node.module), node


@cache
def sources() -> tuple[Source, ...]:
    """Return every module of `dub5`, in the order of their paths."""
    return tuple(Source(path) for part in PARTS for path in sorted((ROOT / part).rglob("*.py")))


@cache
def is_ours(module: str) -> bool:
    """Return whether a dotted name is a module of `dub5`."""
    head, *rest = module.split(".")
    base = ROOT.joinpath(*rest)
    return (
        head == "dub5"
        and bool(rest)
        and (base.with_suffix(".py").exists() or (base / "__init__.py").exists())
    )
