"""The matrix as Markdown: for each package a table of faults, with the expected and the observed
behaviour."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.experiments.contract.cases import GROUPS
from tests.experiments.contract.expected import expected, explained
from tests.experiments.contract.packages import Column
from tests.experiments.contract.service import SERVICE_CASES

HEAD = """# Official packages

The official packages, each version in its own environment, are run against the [simulated
providers](../../simulators): healthy answers, and every status and network fault. `nox -s contract` runs them
and writes this page; an unexplained difference makes it fail.

*Expected* is what was measured with exactly these versions beforehand, outside this project; the number names
that measurement, `-` an expectation by analogy. The newest versions are expected to behave like the measured
new versions, and so are old versions, unless something else was measured.

`3x`: number of attempts that went to the network; where they can arrive, the simulator counted as many.
`raw`: an exception that is not one of the package's own (the new packages are built on httpx2, the old ones
on httpx; both use the same names). In brackets: its cause. `silent`: no exception at all, although the answer
is not complete. Clients time out after 1.5 s; their pauses between attempts are skipped and recorded instead,
`~0.5` being the usual backoff with jitter.
"""


@dataclass
class MatrixResults:
    """The results of a run. Cells by column and case; `versions` of the columns that were available."""

    versions: dict[Column, str] = field(default_factory=dict)
    missing: dict[Column, str] = field(default_factory=dict)
    same: list[str] = field(default_factory=list)  # packages whose newest version is the same as "new"
    cells: dict[tuple[Column, str], str] = field(default_factory=dict)
    service: dict[tuple[Column, str], str] = field(default_factory=dict)
    again: int = 0  # cells that were measured twice


class Matrix:
    """The writer of the page, which counts the differences."""

    def __init__(self, seen: MatrixResults) -> None:
        self.notes: list[str] = []
        self.compared = self.differing = 0
        self.unexplained: list[str] = []
        self._seen = seen

    def page(self) -> str:
        """Return the whole page."""
        columns = self._seen.versions
        parts = []
        for package in dict.fromkeys(column.package for column in columns):
            parts += self._package([column for column in columns if column.package == package])
        parts += self._service([column for column in columns if column.package == "openai"])
        return "\n".join([HEAD, *self._summary(), *parts, *self._explanations(), ""])

    def _summary(self) -> list[str]:
        said = f"**{self.compared} cells: {self.compared - self.differing} as expected, "
        said += f"{self.differing - len(self.unexplained)} differences explained below, "
        lines = [f"{said}{len(self.unexplained)} unexplained.**", ""]
        lines += [f"- **UNEXPLAINED**: {line}" for line in self.unexplained]
        for column in self._seen.missing:
            wanted = column.wanted or "newest"
            lines.append(f"- **NOT MEASURED**: {column.package} {wanted} could not be had from the registry")
        return [*lines, ""]

    def _package(self, columns: Sequence[Column]) -> list[str]:
        heads = ["fault", "from", "expected", *(self._head(c) for c in columns if c.age != "old")]
        for column in columns:
            if column.age == "old":
                heads += ["expected of old", self._head(column)]
        lines = [f"## {columns[0].package}", ""]
        for title, cases in GROUPS.items():
            known = [case for case in cases if columns[0].package in case.packages]
            if not known:
                continue
            lines += [f"### {title}", "", *_table_head(heads)]
            for case in known:
                newer = Column(columns[0].package, "new")
                cells = [case.name, case.source, expected(newer, case)]
                for column in columns:
                    wanted, said = expected(column, case), self._seen.cells[column, case.name]
                    cells += [wanted] if column.age == "old" else []
                    why = explained(column, case.name, said)
                    cells.append(self._cell(column, case.name, wanted, said, why))
                lines.append(_row(cells))
            lines.append("")
        return lines

    def _service(self, columns: Sequence[Column]) -> list[str]:
        if not self._seen.service:
            return []
        lines = ["## openai against the service itself", ""]
        lines += ["In front of simulated providers; the code of our error in brackets.", ""]
        lines += _table_head(["case", "expected", *map(self._head, columns)])
        for case in SERVICE_CASES:
            cells = [case.name, case.expected]
            for column in columns:
                said = self._seen.service[column, case.name]
                cells.append(self._cell(column, case.name, case.expected, said, why=""))
            lines.append(_row(cells))
        return [*lines, ""]

    def _head(self, column: Column) -> str:
        version = self._seen.versions[column]
        newest = column.age == "newest" or (column.age == "new" and column.package in self._seen.same)
        return f"{version} (newest)" if newest else version

    def _cell(self, column: Column, case: str, wanted: str, said: str, why: str) -> str:
        self.compared += 1
        if said == wanted:
            return said
        self.differing += 1
        if not why:
            version = self._seen.versions[column]
            self.unexplained.append(f"{column.package} {version}, {case}: expected {wanted!r}, seen {said!r}")
            return f"{said} **UNEXPLAINED**"
        if why not in self.notes:
            self.notes.append(why)
        return f"{said} **[{self.notes.index(why) + 1}]**"

    def _explanations(self) -> list[str]:
        lines = [f"{n}. {why}" for n, why in enumerate(self.notes, 1)]
        return ["## Differences explained", "", *(lines or ["None."])]


def _table_head(heads: Sequence[str]) -> list[str]:
    return [_row(heads), _row(["---"] * len(heads))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
