"""The settings of the cache: what is refused, what is never shown, and what waits for a restart."""

from pathlib import Path

import pytest

from dub5.service.config.load import load
from dub5.service.config.settings import LoadedSettings, SettingsProblems
from tests.support.one_route import ONE_ROUTE

SECRET = "s3cret-password"
ENVIRONMENT = {
    "REDIS_URL": f"redis://user:{SECRET}@redis.test:6380/2",
    "NO_URL": f"http://{SECRET}@redis.test",
    "SHORT": "short",
    "TOKEN": "long-enough-for-a-token",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dub5.toml"


def read(file: Path, more: str, running: LoadedSettings | None = None) -> LoadedSettings:
    file.write_text(ONE_ROUTE + more)
    return load(file, ENVIRONMENT, running=running and running.settings)


def test_a_redis_by_a_variable(file: Path) -> None:
    """A Redis is configured by a variable, with its password, which is in no file."""
    loaded = read(file, '[cache.redis]\nurl_env = "REDIS_URL"\n')
    assert loaded.redis_url and loaded.redis_url.reveal() == ENVIRONMENT["REDIS_URL"]
    assert SECRET not in repr(loaded)


def test_a_redis_by_its_address(file: Path) -> None:
    """A Redis without a password is configured by its address."""
    loaded = read(file, '[cache.redis]\nurl = "rediss://redis.test"\n')
    assert loaded.redis_url and loaded.redis_url.reveal() == "rediss://redis.test"
    assert read(file, "").redis_url is None


REFUSED = {
    "a password in the file": (
        f'[cache.redis]\nurl = "redis://:{SECRET}@h"\n',
        "must hold no user or password",
    ),
    "both": ('[cache.redis]\nurl = "redis://h"\nurl_env = "REDIS_URL"\n', "are both set"),
    "no redis": (f'[cache.redis]\nurl = "http://{SECRET}"\n', "must be written redis://host:port"),
    "no redis in the variable": ('[cache.redis]\nurl_env = "NO_URL"\n', "what NO_URL holds must be written"),
    "no number": ('[cache.redis]\nurl = "redis://h/first"\n', "must be a number"),
    "no port": (f'[cache.redis]\nurl = "redis://h:{SECRET}"\n', "is not an address"),
    "not set": ('[cache.redis]\nurl_env = "NOT_SET"\n', "NOT_SET is not set"),
    "the address as a name": (
        f'[cache.redis]\nurl_env = "redis://:{SECRET}@h"\n',
        "url_env: must have the form",
    ),
    "the token as a name": (f'[admin]\ntoken_env = "{SECRET}"\n', "token_env: must have the form"),
    "a short token": ('[admin]\ntoken_env = "SHORT"\n', "must have 16 characters or more"),
}


@pytest.mark.parametrize(("more", "why"), REFUSED.values(), ids=REFUSED)
def test_refused(file: Path, more: str, why: str) -> None:
    """Invalid settings are refused in words, without what may be a secret."""
    with pytest.raises(SettingsProblems) as error:
        read(file, more)
    assert any(why in problem for problem in error.value.problems)
    assert SECRET not in str(error.value)


def test_a_token(file: Path) -> None:
    """The admin token comes from a variable; else the service makes one."""
    loaded = read(file, '[admin]\ntoken_env = "TOKEN"\n')
    assert loaded.admin_token and loaded.admin_token.reveal() == ENVIRONMENT["TOKEN"]
    assert read(file, "").admin_token is None


def test_another_redis_waits_for_a_restart(file: Path) -> None:
    """Another Redis needs a restart; all other bounds of the cache do not."""
    running = read(file, '[cache.redis]\nurl = "redis://old"\n')
    loaded = read(file, '[cache]\nentries_max = 5\n[cache.redis]\nurl = "redis://new"\n', running)
    assert loaded.settings.cache.redis.url == "redis://old"
    assert loaded.settings.cache.entries_max == 5
    assert "cache.redis: needs a restart; the old values stay." in loaded.warnings


def test_what_is_hardly_meant(file: Path) -> None:
    """A cache that is off but described, and a file that is not there."""
    off = read(file, "[route.cache]\nstale_if_error_s = 60\n").warnings
    assert off == ("route 'chat': cache.stale_if_error_s: has no effect, as cache.enabled is false.",)
    gone = read(file, '[route.cache]\nenabled = true\nwarm_from = "nowhere.jsonl"\n').warnings
    assert gone == ("route 'chat': cache.warm_from: there is no file 'nowhere.jsonl'.",)
