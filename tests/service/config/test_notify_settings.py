"""Settings of [notify] and [sentry]: what cannot work is refused at the start, and no secret is shown."""

from pathlib import Path

import pytest

from dub5.service.config.load import load, variables
from dub5.service.config.settings import LoadedSettings, NotifySettings, SettingsProblems
from tests.support.one_route import ONE_ROUTE

HOOK = '[notify]\nurl_env = "URL"\nsecret_env = ["SECRET"]\n'
URL, SECRET = "https://hooks.example.com/services/token", "0123456789abcdef0123456789abcdef"
GOOD = {"URL": URL, "SECRET": SECRET}
DSN = "https://0123456789abcdef@o1.ingest.example.com/42"


def read(tmp_path: Path, text: str, environ: dict[str, str], **more: object) -> LoadedSettings:
    file = tmp_path / "dub5.toml"
    file.write_text(ONE_ROUTE + text)
    return load(file, environ, **more)  # type: ignore[arg-type]


def test_a_hook(tmp_path: Path) -> None:
    """The hook has its address, its secrets and all kinds of incidents, unless some are chosen."""
    hook = read(tmp_path, HOOK, GOOD).notify
    assert hook is not None and hook.url.reveal() == URL and hook.events == NotifySettings().events
    assert [secret.reveal() for secret in hook.secrets] == [SECRET]
    chosen = read(tmp_path, HOOK + 'events = ["crash"]', GOOD).notify
    assert chosen is not None and chosen.events == ("crash",)
    assert read(tmp_path, "", GOOD).notify is None
    base64 = {"URL": URL, "SECRET": "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"}
    assert read(tmp_path, HOOK, base64).notify is not None
    sentry = read(tmp_path, '[sentry]\ndsn_env = "DSN"\n', {"DSN": DSN})
    assert sentry.sentry_dsn is not None and sentry.sentry_dsn.reveal() == DSN


@pytest.mark.parametrize(
    ("text", "environ", "words"),
    [
        ("[notify]\n", GOOD, "notify.url_env: is missing; name the variable"),
        ('[notify]\nurl_env = "URL"\n', GOOD, "notify.secret_env: is missing; name a variable"),
        (HOOK, {"SECRET": SECRET}, "notify.url_env: the environment variable URL is not set"),
        (HOOK, {"URL": URL}, "notify.secret_env: the environment variable SECRET is not set"),
        (HOOK, GOOD | {"URL": "http://hooks.example.com/token"}, "must begin with https://"),
        (HOOK, GOOD | {"URL": "hooks.example.com/token"}, "must begin with https:// and name a host"),
        (HOOK, GOOD | {"URL": "https://u:token@x/"}, "must hold no user, password or fragment"),
        (HOOK, GOOD | {"SECRET": "short-token"}, "32 characters or more"),
        (HOOK, GOOD | {"SECRET": "whsec_token"}, "the base64 of 24 bytes"),
        (HOOK + 'events = ["fire"]', GOOD, "notify.events[0]: must be one of degraded, "),
        (HOOK + "secrets = 1", GOOD, "there is no such setting"),
        (f'[notify]\nurl_env = "{URL}"\nsecret_env = ["SECRET"]', GOOD, "notify.url_env: "),
        ("[sentry]\n", GOOD, "sentry.dsn_env: is missing"),
        ('[sentry]\ndsn_env = "DSN"', {"DSN": "https://x/token"}, "must be a DSN: https://KEY@HOST/PROJECT"),
        (f'[sentry]\ndsn_env = "{DSN}"', {}, "sentry.dsn_env: "),
    ],
)
def test_refused(tmp_path: Path, text: str, environ: dict[str, str], words: str) -> None:
    """Each mistake is one sentence that says what to do; neither an address nor a secret is in it."""
    with pytest.raises(SettingsProblems) as raised:
        read(tmp_path, text, environ)
    said = "\n".join(raised.value.problems)
    assert words in said
    assert "token" not in said and DSN not in said and SECRET not in said


def test_a_reload(tmp_path: Path) -> None:
    """A reload keeps what was bound at the start, and says what needs a restart."""
    running = read(tmp_path, HOOK, GOOD).settings
    again = read(tmp_path, '[sentry]\ndsn_env = "DSN"\n', GOOD | {"DSN": DSN}, running=running)
    assert again.settings.notify == running.notify and again.settings.sentry is None
    assert {
        "notify: needs a restart; the old values stay.",
        "sentry: needs a restart; the old values stay.",
    } <= (set(again.warnings))


def test_variables(tmp_path: Path) -> None:
    """`check --env` lists what these tables read."""
    file = tmp_path / "dub5.toml"
    file.write_text(ONE_ROUTE + HOOK + '[sentry]\ndsn_env = "DSN"\n')
    found = {variable.name: variable.read_by for variable in variables(file, {})}
    assert found.items() >= {
        ("URL", "notify.url_env"),
        ("SECRET", "notify.secret_env"),
        ("DSN", "sentry.dsn_env"),
    }
