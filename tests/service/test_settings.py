"""Settings: everything that is wrong is said at once, in words, and nothing secret is said at all."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from dub5.service.config.load import load, variables
from dub5.service.config.settings import LoadedSettings, SessionSettings, SettingsProblems

GOOD = """
[[provider]]
name = "one"
dialect = "openai"
base_url = "https://one.example/v1"
key_env = ["KEY_ONE"]

[[route]]
name = "chat"
targets = ["one/gpt"]
"""


@pytest.fixture
def read(tmp_path: Path):
    def read(text: str, environ: dict[str, str] | None = None, **options: object) -> LoadedSettings:
        path = tmp_path / "dub5.toml"
        path.write_text(text, encoding="utf-8")
        return load(path, {"KEY_ONE": "sk-1"} if environ is None else environ, **options)  # type: ignore[arg-type]

    return read


def problems(read, text: str, environ: dict[str, str] | None = None, **options: object) -> list[str]:
    with pytest.raises(SettingsProblems) as caught:
        read(text, environ, **options)
    return caught.value.problems


def test_the_smallest_file(read) -> None:
    """A provider and a route are enough; everything else has a default."""
    loaded = read(GOOD)
    assert loaded.settings.server.host == "127.0.0.1"
    assert loaded.settings.route[0].timeouts.first_token_s == 240.0
    assert loaded.provider_keys["one"][0].reveal() == "sk-1"


def test_all_problems_at_once(read) -> None:
    """All problems of a file are reported at once."""
    text = (
        GOOD.replace("dialect", "dialekt").replace('"one/gpt"', '"oen/gpt", "gpt"') + "\n[srever]\nport = 1\n"
    )
    said = problems(read, text + "\n[server]\nport = 'http'\n")
    assert any("dialekt: there is no such setting; did you mean 'dialect'?" in line for line in said)
    assert any("srever: there is no such setting; did you mean 'server'?" in line for line in said)
    assert any("server.port: must be a whole number, not text (it is 'http')" in line for line in said)
    assert any("provider 'one'.dialect: is missing" in line for line in said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"one/gpt"', '"oen/gpt"'), "names no configured provider; did you mean 'one'?"),
        (('"one/gpt"', '"gpt"'), "must be written provider/model"),
        (('"one/gpt"', '"one/gpt", "one/gpt"'), "is listed twice"),
        (('"openai"', '"opneai"'), "must be one of openai, mistral, anthropic"),
        (("https://one.example/v1", "one.example/v1"), "must begin with http:// or https://"),
        (("https://one.example/v1", "https://me:secret@one.example"), "must hold no user, password"),
        (
            ('name = "chat"', 'name = "chat"\ntimeouts = {first_token_s = 400}'),
            "is longer than timeouts.total_s",
        ),
        (
            ('name = "chat"', 'name = "chat"\ntimeouts = {first_token_s = 0}'),
            "first_token_s: must be a number > 0",
        ),
        (
            ("[[route]]", "[breaker]\nopen_s = 20\n[[route]]"),
            "breaker.open_s: is longer than breaker.open_max_s",
        ),
        (
            ("[[route]]", "[breaker]\nhost_open_max_s = 4\n[[route]]"),
            "breaker.open_s: is longer than breaker.host_open_max_s",
        ),
        (('"openai"', '"openai"\nprices = {gpt = {input = 1}}'), "one'.prices.gpt.prompt: is missing"),
        (('["one/gpt"]', '["one/gpt", 3]'), "route 'chat'.targets[1]: must be text, not a whole number"),
        (("[[route]]", "[retry]\nmax_s = 0.05\n[[route]]"), "retry.base_s: is longer than retry.max_s"),
        (("[[route]]", "[limiter]\nmax = 3\n[[route]]"), "limiter.min: is more than limiter.max"),
        (("[[route]]", "[[rout]]"), "No route is configured: add a [[route]] table."),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1],
)
def test_contradictions(read, change: tuple[str, str], said: str) -> None:
    """What the types alone do not show is found before the service starts."""
    assert any(said in line for line in problems(read, GOOD.replace(*change)))


def test_a_key_that_is_not_set(read) -> None:
    """A missing key is reported with the name of its variable."""
    assert "environment variable KEY_ONE is not set" in problems(read, GOOD, {})[0]


def test_a_key_in_the_wrong_place_is_not_shown(read) -> None:
    """A key written in place of a variable's name does not appear in messages."""
    for value in ('["sk-proj-abc"]', '"sk-proj-abc"'):
        assert "sk-proj" not in "".join(problems(read, GOOD.replace('["KEY_ONE"]', value)))

    headers = 'overrides = {headers = {"x-token" = "sk-proj-abc", "not ok" = "x"}}\n[[route]]'
    said = problems(read, GOOD.replace("[[route]]", headers))
    assert "overrides.headers" in said[0]
    assert "sk-proj" not in said[0]


class TestKeysInFiles:
    def test_read(self, read, tmp_path: Path) -> None:
        """KEY_ONE_FILE names a file that holds the key, as Docker and Kubernetes give secrets."""
        file = tmp_path / "key"
        file.write_text("sk-2\n")
        assert read(GOOD, {"KEY_ONE_FILE": str(file)}).provider_keys["one"][0].reveal() == "sk-2"
        assert "both set" in problems(read, GOOD, {"KEY_ONE_FILE": str(file), "KEY_ONE": "sk-1"})[0]

    @pytest.mark.parametrize("held", [b"", b"two words", b"sk-one\nsk-two", b"sk-\xff", b"sk-" * 3_000])
    def test_no_key(self, read, tmp_path: Path, held: bytes) -> None:
        """What cannot stand in a header is no key, and is not shown."""
        file = tmp_path / "key"
        file.write_bytes(held)
        said = problems(read, GOOD, {"KEY_ONE_FILE": str(file)})[0]
        assert said.startswith("provider 'one'.key_env: the file that KEY_ONE_FILE names must hold a key")
        assert "sk-" not in said

    def test_no_file(self, read, tmp_path: Path) -> None:
        """The variable is named, and why."""
        said = problems(read, GOOD, {"KEY_ONE_FILE": str(tmp_path / "none")})[0]
        assert "KEY_ONE_FILE names cannot be read (No such file" in said


class TestRunning:
    def test_what_is_bound_at_the_start(self, read) -> None:
        """Stays, and is said to need a restart; all else is taken."""
        running = read(GOOD).settings
        text = '[server]\nhost = "::1"\nport = 9\nwire = "httpx"\nproxy = "http://p:1"\nheaders_max = 7\n'
        loaded = read(text + "connections_per_origin_max = 9\n" + GOOD, running=running)
        assert loaded.settings.server == replace(running.server, headers_max=7)
        assert loaded.warnings == tuple(
            f"server.{name}: needs a restart; the old value stays."
            for name in ("host", "port", "wire", "proxy", "connections_per_origin_max")
        )

    def test_exposure(self, read) -> None:
        """Keys are not taken off a service that can be reached from outside, whatever host the file now
        says."""
        keys = '\n[server]\nhost = "0.0.0.0"\ncaller_keys_env = ["KEY_ONE"]\n'
        running = read(GOOD + keys).settings
        assert "'0.0.0.0' is reachable from outside" in problems(read, GOOD, running=running)[0]

    def test_pipes(self, read, tmp_path: Path) -> None:
        """A pipe, which can be read only once, is not waited for."""
        os.mkfifo(tmp_path / "pipe")
        running = read(GOOD).settings
        said = problems(read, GOOD, {"KEY_ONE_FILE": str(tmp_path / "pipe")}, running=running)
        assert "a pipe can be read only once" in said[0]
        with pytest.raises(SettingsProblems, match="only once"):
            load(tmp_path / "pipe", {}, running=running)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"openai"', '"openai"\nisolated = true'), "all its providers are isolated"),
        (
            ('"openai"', '"openai"\nprices = {gpd = {prompt = 1, completion = 2}}'),
            "no route has a target with the model 'gpd'",
        ),
    ],
    ids=["isolated", "prices"],
)
def test_remarks(read, change: tuple[str, str], said: str) -> None:
    """What can be used, and is hardly meant, is said and not refused."""
    assert read(GOOD).warnings == ()
    (remark,) = read(GOOD.replace(*change)).warnings
    assert said in remark


@pytest.mark.parametrize(
    ("dialect", "address", "said"),
    [
        ("openai", "https://api.openai.com", "is at '/v1', not at '/'"),
        (
            "openai",
            "https://api.openai.com/v1/chat/completions",
            "ends in /chat/completions, which the service",
        ),
        ("openai", "https://h.example/v1/chat/completions/", "ends in /chat/completions"),
        ("openai", "https://h.example/v1/embeddings", "ends in /embeddings"),
        ("anthropic", "https://h.example/v1/messages", "ends in /messages"),
        ("anthropic", "https://h.example/v1", "ends in /v1"),
        ("openai", "https://api.opeani.com/v1", "did you mean 'api.openai.com'?"),
        ("mistral", "https://api.mistral.io/v1", "did you mean 'api.mistral.ai'?"),
        ("openai", "https://openrouter.ai/v1", "is at '/api/v1'"),
        ("openai", "http://10.0.0.3:8000", "want /v1 at the end"),
        ("openai", "http://api.openai.com/v1", "without encryption"),
        ("openai", "https://api.openai.com/v1/", ""),
        ("openai", "https://eu.api.openai.com/v1", ""),
        ("openai", "http://10.0.0.3:8000/v1", ""),
        ("openai", "https://mine.openai.azure.com/openai/v1", ""),
        ("anthropic", "https://api.anthropic.com", ""),
        ("openai", "https://api.anthropic.com/v1", ""),
    ],
)
def test_addresses(read, dialect: str, address: str, said: str) -> None:
    """An address that can hardly be meant is told, offline; a good one is not."""
    text = GOOD.replace('"openai"', f'"{dialect}"').replace("https://one.example/v1", address)
    found = read(text).warnings
    assert len(found) == bool(said)
    assert said in "".join(found)


def test_a_public_provider_without_a_key(read) -> None:
    """A public provider without a key is told: it would refuse each request."""
    text = GOOD.replace("one.example", "api.openai.com").replace('key_env = ["KEY_ONE"]', "")
    assert read(text).warnings == (
        "provider 'one': has no key_env, but api.openai.com answers only with a key.",
    )


def test_secrets_do_not_print(read) -> None:
    """No repr of anything loaded holds a key."""
    assert "sk-1" not in repr(read(GOOD))


SECRET = "0123456789abcdef" * 2


def test_sessions(read, tmp_path: Path) -> None:
    """An empty table turns sessions on, and is warned of; secrets come from variables or files, in order."""
    assert read(GOOD).settings.session is None
    empty = read(GOOD + "[session]\n")
    assert (empty.settings.session, empty.session_secrets) == (SessionSettings(), ())
    assert ["session.secret_env: is empty" in warning for warning in empty.warnings] == [True]

    (tmp_path / "old").write_text(SECRET[::-1] + "\n")
    environ = {"KEY_ONE": "k", "NEW": SECRET, "OLD_FILE": str(tmp_path / "old")}
    loaded = read(GOOD + '[session]\nsecret_env = ["NEW", "OLD"]\ndays = 7\n', environ)
    assert [secret.reveal() for secret in loaded.session_secrets] == [SECRET, SECRET[::-1]]
    assert (loaded.warnings, loaded.settings.session.days) == ((), 7)
    listed = {one.name: one.state for one in variables(tmp_path / "dub5.toml", environ)}
    assert (listed["NEW"], listed["OLD"]) == ("set", "by a file")
    by_environment = read(GOOD, environ | {"DUB5__SESSION__SECRET_ENV": "OLD,NEW"})
    assert [secret.reveal() for secret in by_environment.session_secrets] == [SECRET[::-1], SECRET]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('secret_env = ["NONE"]', "session.secret_env: the environment variable NONE is not set"),
        ('secret_env = ["SHORT"]', "each of these variables holds must have 32 characters"),
        (f'secret_env = ["{SECRET}!"]', "session.secret_env[0]: must be a list of names"),
        (f'secret = "{SECRET}"', "session.secret: there is no such setting; did you mean 'secret_env'?"),
        ("days = 0", "session.days: must be a whole number >= 1 (it is 0)"),
        ("days = 401", "session.days: must be a whole number <= 400 (it is 401)"),
        ("ticket_s = 601", "session.ticket_s: must be a whole number <= 600"),
    ],
)
def test_bad_sessions(read, table: str, said: str) -> None:
    """What is wrong with the table is said, and no secret is shown."""
    (problem,) = problems(read, f"{GOOD}[session]\n{table}\n", {"KEY_ONE": "k", "SHORT": "short-secret"})
    assert said in problem
    assert SECRET not in problem and "short-secret" not in problem


def test_session_is_a_table(read) -> None:
    """Whoever switches sessions on by a word is told what to write."""
    (problem,) = problems(read, "session = true\n" + GOOD)
    assert problem == "session: must be a table."


def test_the_environment_lies_over_the_file(read) -> None:
    """The environment wins over the file; numbers and lists may be text."""
    environ = {"KEY_ONE": "k", "DUB5__SERVER__PORT": "9000", "DUB5__SERVER__CALLER_KEYS_ENV": "KEY_ONE"}
    loaded = read(GOOD, environ)
    assert loaded.settings.server.port == 9000
    assert [key.reveal() for key in loaded.caller_keys] == ["k"]
    assert "server.port" in problems(read, GOOD, environ | {"DUB5__SERVER__PORT": "ninety"})[0]


class TestExposure:
    def test_a_public_address_without_keys(self, read) -> None:
        """Listening for the world without caller keys must be meant."""
        assert "reachable from outside" in problems(read, GOOD, host="0.0.0.0")[0]
        assert read(GOOD, host="0.0.0.0", insecure=True)
        assert read(GOOD + '\n[server]\ncaller_keys_env = ["KEY_ONE"]\n', host="0.0.0.0")

    @pytest.mark.parametrize("host", ["localhost", "::1", "127.0.0.5"])
    def test_loopback_needs_none(self, read, host: str) -> None:
        """On loopback no keys are needed."""
        assert read(GOOD, host=host)


def test_one_look_is_enough(read) -> None:
    """What is wrong in one place does not hide what is wrong in another."""
    text = GOOD + '[[route]]\nname = "o p"\ntargets = []\n' + GOOD.replace("https://", "")
    said = "\n".join(problems(read, text + "[cache]\nentries_max = 0\n"))
    for part in (
        "provider 'one': the name is used twice",
        "route 'chat': the name is used twice",
        "must begin with http://",
        "route 'o p'.targets: must have",
        "cache.entries_max: must be",
    ):
        assert part in said
    assert "no configured provider" not in said


def test_a_bad_value_hides_no_other(read) -> None:
    """A bad value of a table hides no other mistake: not its address, not its keys, nor in other tables."""
    text = GOOD.replace('"openai"', '"opneai"').replace("https://one", "one").replace('["one/gpt"]', "[1, 2]")
    text += '[[route]]\ntargets = ["one/gpt", "two/m"]\n[[provider]]\nname = "two"\nkey_env = ["KEY_TWO"]\n'
    text += 'prices = {a = {prompt = -1}, b = {}}\ncontext_tokens = {m = "many", n = 0}\n'
    text += '[server]\nhost = "0.0.0.0"\nport = "x"\n[retry]\nmax_s = 0.05\n'
    said = "\n".join(problems(read, text, {}))
    for part in (
        "provider 'one'.dialect: must be one of openai",
        "provider 'one'.base_url: must begin with http://",
        "provider 'one'.key_env: the environment variable KEY_ONE is not set",
        "route 'chat'.targets[0]: must be text",
        "route 'chat'.targets[1]: must be text",
        "route number 2.name: is missing",
        "provider 'two'.dialect: is missing",
        "provider 'two'.base_url: is missing",
        "provider 'two'.key_env: the environment variable KEY_TWO is not set",
        "provider 'two'.prices.a.prompt: must be a number >= 0",
        "provider 'two'.prices.b.prompt: is missing",
        "provider 'two'.context_tokens.m: must be a whole number",
        "provider 'two'.context_tokens.n: must be a whole number >= 1",
        "server.port: must be a whole number",
        "server.host '0.0.0.0' is reachable from outside",
        "retry.base_s: is longer than retry.max_s",
    ):
        assert part in said
    assert "invalid" not in said and "used twice" not in said


@pytest.mark.parametrize(
    "text", ["", "provider = 3", "[[provider]]", "\x00", "[", "route = []\nprovider = [1]"]
)
def test_broken_files(read, text: str) -> None:
    """Whatever is in the file, the answer is a list of sentences."""
    assert all(line.strip() and line.endswith((".", ")")) for line in problems(read, text))


def test_no_file(tmp_path: Path) -> None:
    """A missing file is reported in a sentence."""
    with pytest.raises(SettingsProblems, match="cannot be read"):
        load(tmp_path / "none.toml", {})
