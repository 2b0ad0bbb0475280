"""Run the official packages against the simulators and the service; write docs/prove/contract.md.

Command: `python -m tests.experiments.contract`

uv makes the environments -> the stage plays the cases -> a child in each environment asks -> the matrix
compares
"""

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.experiments.contract.cases import CASES, ContractCase
from tests.experiments.contract.expected import expected, explained
from tests.experiments.contract.matrix import Matrix, MatrixResults
from tests.experiments.contract.packages import (
    COLUMNS,
    NEW,
    PATIENCE_S,
    Column,
    ProgramFailed,
    asked,
    installed,
)
from tests.experiments.contract.reading import sent, words
from tests.experiments.contract.service import SERVICE_CASES, service_calls, serving
from tests.experiments.contract.stage import ContractStage, playing

PAGE = Path("docs/prove/contract.md")
BUSY_S = 15.0  # then a heavy case counts as hopeless
AT_ONCE = 3  # children: on two cores, more would disturb each other's clocks


def main(argv: Sequence[str] | None = None) -> int:
    """Run the matrix. Return 1 if a difference is not explained, 2 if the matrix could not be run."""
    parser = argparse.ArgumentParser(prog="python -m tests.experiments.contract", description=__doc__)
    parser.add_argument(
        "--only", metavar="PACKAGE", help="openai, anthropic or mistralai; the page is not written"
    )
    only = parser.parse_args(argv).only
    columns = [column for column in COLUMNS if only in (None, column.package)]
    if shutil.which("uv") is None or not columns:
        print(
            "contract: uv is needed on PATH" if columns else f"contract: no package {only!r}", file=sys.stderr
        )
        return 2
    begun_s = time.monotonic()
    seen = asyncio.run(run(columns))
    for column, why in seen.missing.items():
        print(f"contract: NOT MEASURED: {column.name}: {why}", file=sys.stderr)
    if not seen.versions:
        return 2
    matrix = Matrix(seen)
    page = matrix.page()
    print(page)
    if only is None:
        PAGE.write_text(page, encoding="utf-8")
    said = f"contract: {matrix.compared} cells in {time.monotonic() - begun_s:.0f} s, "
    print(
        f"{said}{len(matrix.unexplained)} differences unexplained, {len(seen.missing)} versions not to be had"
    )
    return 1 if matrix.unexplained else 0


async def run(columns: Sequence[Column]) -> MatrixResults:
    """Run all cases, a few packages at a time."""
    seen = MatrixResults()
    for column, got in zip(columns, await asyncio.gather(*map(_had, columns)), strict=True):
        if isinstance(got, ProgramFailed):
            seen.missing[column] = str(got).splitlines()[-1]
        elif column.age == "newest" and got == NEW[column.package]:
            seen.same.append(column.package)
        else:
            seen.versions[column] = got
    gate = asyncio.Semaphore(AT_ONCE)

    async def held(
        work: Callable[[Column, MatrixResults, ContractStage], Awaitable[None]], column: Column
    ) -> None:
        async with gate:
            await work(column, seen, stage)

    async with playing({column.name: column.package for column in seen.versions}) as stage:
        work = [held(_against_simulators, column) for column in seen.versions]
        work += [held(_against_service, column) for column in seen.versions if column.package == "openai"]
        await asyncio.gather(*work)
    return seen


async def _had(column: Column) -> str | ProgramFailed:
    try:
        return await installed(column)
    except ProgramFailed as failed:
        return failed


async def _against_simulators(column: Column, seen: MatrixResults, stage: ContractStage) -> None:
    known = [case for case in CASES if column.package in case.packages]
    for alone in (False, True):
        await _look(column, [case for case in known if case.alone is alone], seen, stage)
    odd = [case for case in known if _odd(column, case, seen.cells[column, case.name])]
    seen.again += len(odd)  # a busy machine makes clients time out: what is real is seen twice
    for case in odd:
        stage.forget(column.name, case)
        await _look(column, [case], seen, stage)


async def _look(
    column: Column, cases: Sequence[ContractCase], seen: MatrixResults, stage: ContractStage
) -> None:
    calls = [_call(column, case, stage) for case in cases]
    found = await asked(column, calls, BUSY_S if cases[0].alone else PATIENCE_S)
    for case in cases:
        seen.cells[column, case.name] = _cell(column, case, found[case.name], stage)


def _odd(column: Column, case: ContractCase, said: str) -> bool:
    return said != expected(column, case) and not explained(column, case.name, said)


def _call(column: Column, case: ContractCase, stage: ContractStage) -> Mapping[str, Any]:
    url = stage.address(column.name, case)
    params = dict(case.params)
    return {"name": case.name, "url": url, "call": case.call, "timeout_s": case.timeout_s, "params": params}


def _cell(column: Column, case: ContractCase, found: Mapping[str, Any], stage: ContractStage) -> str:
    lingers = case.name.startswith("lingers")
    said = words(found, column.package, lingers=lingers, slept=case.waits)
    if case.sent:
        said += f"; {sent(stage.headers[column.name, case.name])}"
    arrived = stage.requests[column.name, case.name]
    if not case.place and arrived != found["attempts"]:
        said += f" (but {arrived} requests arrived)"
    return said


async def _against_service(column: Column, seen: MatrixResults, stage: ContractStage) -> None:
    async with serving() as url:
        found = await asked(column, service_calls(url))
    for case in SERVICE_CASES:
        seen.service[column, case.name] = words(found[case.name], "openai", slept=case.waits, ours=True)


if __name__ == "__main__":
    sys.exit(main())
