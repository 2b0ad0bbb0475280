"""`async def` tests run in virtual time; `@pytest.mark.real_sockets` gives a test a real event loop.

`make test` plays the short form of what is long: fewer examples of each property, and no case that is marked
`thorough`. `--thorough` plays everything (`nox -s thorough`, in `.ci/run`).
"""

import asyncio
import gc
import inspect
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from dub5.simulators.virtual import run

EXAMPLES = {"short": 40, "thorough": 400}  # of a property that asks for no number of its own
# A busy machine makes an example slow, not wrong.
for name, count in EXAMPLES.items():
    patient = settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile(name, patient)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="orders what is ready at the same virtual instant")
    parser.addoption(
        "--thorough", action="store_true", help="the long forms: every case, ten times the examples"
    )


def pytest_configure(config: pytest.Config) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # below nohup, children would inherit that it is ignored
    config.addinivalue_line("markers", "real_sockets: runs on a real event loop, with real time")
    config.addinivalue_line(
        "markers", "thorough: part of a long form; the claim has a short one in `make test`"
    )
    settings.load_profile("thorough" if config.getoption("--thorough") else "short")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than there are cores, since tests on sockets mostly wait; at most nine."""
    return (
        min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8) + 1
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"virtual time: --seed {config.getoption('--seed')}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave long forms out unless they are wanted; under xdist begin with modules that wait for real time."""
    if not config.getoption("--thorough"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("thorough")])
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    if hasattr(config, "workerinput"):
        waiting = {item.path for item in items if item.get_closest_marker("real_sockets")}
        items.sort(key=lambda item: item.path not in waiting)


def pytest_collection_finish() -> None:
    """Keep the garbage collector away from modules and tests: it would look at them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_application() -> Iterator[None]:
    """Let all services of this process share one Litestar application."""
    from tests.support.shared_app import shared_app  # noqa: PLC0415  # only where tests run: it loads Litestar

    with shared_app():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    main = pyfuncitem.obj(**arguments)
    if pyfuncitem.get_closest_marker("real_sockets"):
        asyncio.run(main)
    else:
        run(main, seed=pyfuncitem.config.getoption("--seed"))
    return True
