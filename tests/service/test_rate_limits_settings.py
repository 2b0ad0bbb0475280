"""The settings of rate limits: what is refused, what lets the service listen to the outside, what waits."""

from pathlib import Path

import pytest

from dub5.service.config.load import load
from dub5.service.config.options import LimitOptions
from dub5.service.config.settings import LoadedSettings, SettingsProblems
from tests.support.one_route import ONE_ROUTE

KEYS = '[server]\ncaller_keys_env = ["KEY_ONE"]\n'
SESSION = '[session]\nsecret_env = ["SESSION_SECRET"]\n'
REDIS = '[cache.redis]\nurl = "redis://127.0.0.1"\n'
ENVIRONMENT = {"KEY_ONE": "a-key-of-a-caller", "SESSION_SECRET": "a-secret-of-32-characters-or-more"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dub5.toml"


def read(file: Path, more: str, **options: object) -> LoadedSettings:
    file.write_text(ONE_ROUTE + more)
    return load(file, ENVIRONMENT, **options)  # type: ignore[arg-type]


def problems(file: Path, more: str, **options: object) -> list[str]:
    with pytest.raises(SettingsProblems) as raised:
        read(file, more, **options)
    return raised.value.problems


def test_all_of_it(file: Path) -> None:
    """Every limit can be set at once."""
    text = (
        f"{KEYS}{SESSION}{REDIS}[limits]\nsession = {{ count = 1 }}\nip = {{ count = 2, window_s = 10 }}\n"
        'caller = { count = 3 }\npremium = ["KEY_ONE"]\nshared = true\nstrikes = 1\nblock_s = 1\n'
    )
    limits = read(file, text).settings.limits
    assert (limits.session, limits.ip) == (LimitOptions(1, 60), LimitOptions(2, 10))
    assert limits.shared and limits.premium == ("KEY_ONE",)


REFUSED = {
    "no Redis": ("shared = true", "limits.shared: needs a Redis"),
    "unknown premium": (
        'premium = ["KEY_TWO"]',
        "limits.premium: 'KEY_TWO' is not in server.caller_keys_env",
    ),
    "no sessions": ("session = { count = 1 }", "limits.session: needs sessions"),
    "no callers": ("caller = { count = 1 }", "limits.caller: needs callers with keys"),
    "blocks": ("block_s = 10\nblock_max_s = 5", "limits.block_s: is longer than limits.block_max_s"),
    "no count": ("ip = { window_s = 10 }", "limits.ip.count: is missing"),
    "nothing": ("ip = { count = 0 }", "limits.ip.count: must be a whole number >= 1"),
    "half a second": ("ip = { count = 1, window_s = 0.5 }", "limits.ip.window_s: must be"),
    "a word too much": ("ip = { count = 1, windows_s = 5 }", "did you mean 'window_s'"),
    "no table": ("ip = 5", "limits.ip: must be a table"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(file: Path, name: str) -> None:
    """What contradicts itself is refused, in a sentence that names the setting."""
    text, sentence = REFUSED[name]
    found = problems(file, f"[limits]\n{text}\n")
    assert len(found) == 1 and sentence in found[0], found


def test_exposure(file: Path) -> None:
    """Without caller keys the outside is served only with sessions and a limit of addresses, both."""
    limited = "[limits]\nip = { count = 100 }\n"
    assert read(file, SESSION + limited, host="0.0.0.0").settings.server.host == "0.0.0.0"
    for text in ("", SESSION, limited):
        assert "add [session] and limits.ip" in problems(file, text, host="0.0.0.0")[0]


def test_a_reload_cannot_share(file: Path) -> None:
    """Where requests are counted needs a restart; how many does not."""
    running = read(file, REDIS).settings
    text = f"{REDIS}[limits]\nshared = true\nip = {{ count = 3 }}\n"
    loaded = read(file, text, running=running)
    assert loaded.settings.limits.ip == LimitOptions(3) and not loaded.settings.limits.shared
    assert "limits.shared: needs a restart; the old value stays." in loaded.warnings
