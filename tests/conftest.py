"""`async def` tests run in virtual time; `@pytest.mark.real_sockets` gives a test a real event loop."""

import asyncio
import inspect

import pytest
from hypothesis import HealthCheck, settings

from dub5.simulators.virtual import run

# A busy machine makes an example slow, not wrong.
settings.register_profile("dub5", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dub5")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="orders what is ready at the same virtual instant")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_sockets: runs on a real event loop, with real time")


def pytest_report_header(config: pytest.Config) -> str:
    return f"virtual time: --seed {config.getoption('--seed')}"


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
