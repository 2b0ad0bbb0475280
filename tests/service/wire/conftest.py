"""Each contract test runs for each wire; the default one also on uvloop, where it runs in production."""

import inspect

import pytest
import uvloop

KINDS = ("aiohttp", "aiohttp on uvloop", "httpx")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only")
        metafunc.parametrize("kind", [k for k in KINDS if not only or k.startswith(only.args)])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only(wire): what this wire can do and another cannot")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or "uvloop" not in str(
        pyfuncitem.funcargs.get("kind")
    ):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    uvloop.run(pyfuncitem.obj(**arguments))
    return True
