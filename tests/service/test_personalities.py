"""Personalities: a model name of their own for each, and their text before everything that a caller says."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dub5.service.config.load import load
from dub5.service.config.options import CacheOptions, DegradedOptions
from dub5.service.config.personalities import BYTES_MAX, FOLDER, SHIPPED
from dub5.service.config.settings import Personality, SettingsProblems
from dub5.service.telemetry import names as metric_names
from tests.support.personalities import PersonalityWorld, loaded_settings
from tests.support.play import provider
from tests.support.source import ROOT
from tests.support.world import completion, status

NAMES = "assistant, tutor, short, resume"
NOT_SHIPPED = f"""\
personality 'own': no such personality is shipped; name its text in file, or use one of {NAMES}."""
LARGE = "word " * 80_000  # parsed in steps
ENGLISH = {"role": "system", "content": "Answer in English."}
HI = {"role": "user", "content": "Hi"}
CACHED = CacheOptions(enabled=True, ttl_s=60.0)
SETTINGS = """
[[provider]]
name = "one"
dialect = "openai"
base_url = "http://one.example/v1"
key_env = ["KEY"]
[[route]]
name = "chat"
targets = ["one/m"]
"""

# What each dialect sends for a request with `ENGLISH` and `HI`; TEXT is the personality's, as JSON writes it.
GOLDEN = {
    "openai": '{"model":"m","messages":[{"role":"system","content":TEXT},'
    '{"role": "system", "content": "Answer in English."}, {"role": "user", "content": "Hi"}],"stream":false}',
    "mistral": '{"model":"m","messages":[{"role":"system","content":TEXT},'
    '{"role":"system","content":"Answer in English."},{"role":"user","content":"Hi"}],"stream":false}',
    "anthropic": '{"model":"m","max_tokens":4096,"messages":[{"role":"user","content":"Hi"}],'
    '"system":TEXT+"\\n\\nAnswer in English."}',
}


@pytest.mark.parametrize("dialect", GOLDEN)
@pytest.mark.parametrize("name", SHIPPED)
async def test_what_is_sent(name: str, dialect: str) -> None:
    """Each shipped personality through each dialect: the provider gets exactly this body."""
    text = json.dumps((FOLDER / f"{name}.md").read_text().strip(), ensure_ascii=False)
    expected = GOLDEN[dialect].replace('TEXT+"', f"{text[:-1]}").replace("TEXT", text)
    world = PersonalityWorld(loaded_settings(dialect=dialect))
    async with world.client:
        answer = await world.ask(f"chat:{name}", messages=[ENGLISH, HI])
    assert answer.status == 200
    assert [sent.decode() for sent in world.asked] == [expected]


async def test_the_plain_name() -> None:
    """The route's own name answers as before: nothing is added."""
    world = PersonalityWorld(loaded_settings())
    async with world.client:
        await world.ask("chat")
        assert (await world.ask("chat:nobody")).json()["error"]["code"] == "model_not_found"
    assert world.messages == [HI]
    assert world.service.deps.gateway.route("chat").intake is None


async def test_large_requests() -> None:
    """A conversation that is too large to be parsed at once gets the text as well, and stays as it was."""
    world = PersonalityWorld(loaded_settings())
    async with world.client:
        answer = await world.ask("chat:short", messages=[{"role": "user", "content": LARGE}])
    assert answer.status == 200
    assert [message["content"] for message in world.messages][1:] == [LARGE]


@pytest.mark.parametrize("dialect", GOLDEN)
async def test_json_mode(dialect: str) -> None:
    """The instruction to answer in JSON is added to the personality, on routes that need it."""
    world = PersonalityWorld(loaded_settings(dialect=dialect))
    async with world.client:
        await world.ask("chat:short", response_format={"type": "json_object"})
    body = json.loads(world.asked[-1])
    system = body["system"] if dialect == "anthropic" else body["messages"][0]["content"]
    assert system.startswith("You answer briefly.")
    assert ("exactly one JSON object" in system) is (dialect == "anthropic")


async def test_the_name_everywhere() -> None:
    """The name with the personality is the route of headers, models, health, status and metrics."""
    world = PersonalityWorld(loaded_settings())
    async with world.client:
        assert (await world.ask("chat:tutor")).headers["x-dub5-route"] == "chat:tutor"
        models = (await world.client.request("GET", "/v1/models")).json()["data"]
        health = (await world.client.request("GET", "/health?deep=true")).json()["components"]["routes"]
        told = (await world.client.request("GET", "/status")).json()
        metrics = (await world.client.request("GET", "/metrics")).body.decode()
    assert [(model["id"], model.get("personality"), model.get("title")) for model in models] == [
        ("chat", None, None),
        *((f"chat:{name}", name, title) for name, title in SHIPPED.items()),
    ]
    expected = {"chat", *(f"chat:{name}" for name in SHIPPED)}
    assert set(health) == {route["name"] for route in told["routes"]} == expected
    assert told["recent"][0]["route"] == "chat:tutor"
    assert f"{metric_names.REQUESTS.prometheus_name}{{" in metrics and 'route="chat:tutor"' in metrics


async def test_one_model() -> None:
    """A model with a personality is found by its name, as any other."""
    world = PersonalityWorld(loaded_settings())
    async with world.client:
        found = (await world.client.request("GET", "/v1/models/chat:tutor")).json()
    assert (found["id"], found["personality"], found["title"]) == ("chat:tutor", "tutor", "Tutor")


async def test_cached_answers_never_mix() -> None:
    """Of two personalities, and of two versions of a text, each has its own answers in the cache."""
    world = PersonalityWorld(loaded_settings(cache=CACHED))
    asks: list[dict[str, Any]] = [
        {"model": model, "temperature": 0} for model in ("chat", "chat:tutor", "chat:short")
    ]
    async with world.client:
        before = [(await world.ask(**ask)).headers["x-dub5-cache"] for ask in asks * 2]
        fresh = Personality("tutor", "Tutor", "Another text.")
        world.service.reload(loaded_settings(fresh, cache=CACHED))
        after = [(await world.ask(**ask)).headers["x-dub5-cache"] for ask in asks]
    assert before == ["miss"] * 3 + ["hit"] * 3
    assert after == ["hit", "miss", "hit"]
    assert len(world.asked) == 4


async def test_a_stale_answer_is_refreshed_once() -> None:
    """A refresh in the background sends the text once, like the request that it repeats."""
    cache = CacheOptions(enabled=True, ttl_s=0.5, stale_while_revalidate_s=60.0)
    world = PersonalityWorld(loaded_settings(cache=cache), provider("openai", latency="zero"))
    async with world.client:
        await world.ask("chat:tutor", temperature=0)
        await asyncio.sleep(1.0)
        assert (await world.ask("chat:tutor", temperature=0)).headers["x-dub5-cache"] == "stale"
        await asyncio.sleep(1.0)
    first, refreshed = (json.loads(sent)["messages"] for sent in world.asked)
    assert first == refreshed and [message["role"] for message in first] == ["system", "user"]


def test_fingerprints() -> None:
    """The fingerprint of a route follows the text of its personality; without one it is as it always was."""
    routes = PersonalityWorld(loaded_settings()).service.deps.gateway.routes
    assert len({route.fingerprint for route in routes.values()}) == len(SHIPPED) + 1
    plain = loaded_settings()
    plain = replace(
        plain, settings=replace(plain.settings, route=(replace(plain.settings.route[0], personalities=()),))
    )
    assert (
        PersonalityWorld(plain).service.deps.gateway.route("chat").fingerprint == routes["chat"].fingerprint
    )


async def test_a_fallback_answer() -> None:
    """With all providers down, a personality has the fallback answer of its route."""
    world = PersonalityWorld(loaded_settings(degraded=DegradedOptions(enabled=True)), status(500, b"{}"))
    async with world.client:
        assert "x-dub5-degraded" in (await world.ask("chat:tutor")).headers


async def test_warmed_answers(tmp_path: Path) -> None:
    """The answers of a file belong to the plain name: no personality gives them, online or offline."""
    file = tmp_path / "answers.jsonl"
    line = {"request": {"messages": [HI], "temperature": 0}, "answer": json.loads(completion("Hello."))}
    file.write_text(json.dumps(line))
    cache, degraded = replace(CACHED, warm_from=str(file)), DegradedOptions(enabled=True)
    world = PersonalityWorld(loaded_settings(cache=cache, degraded=degraded, listed=["tutor"]))
    async with world.client:
        found = [
            (await world.ask(model, temperature=0)).headers["x-dub5-cache"]
            for model in ("chat", "chat:tutor")
        ]
        pack = (await world.client.request("GET", "/v1/offline")).json()["routes"]
    assert found == ["hit", "miss"]
    assert {name: len(route["answers"]) for name, route in pack.items()} == {"chat": 1, "chat:tutor": 0}


async def test_reload(tmp_path: Path) -> None:
    """A reload reads the files again; requests from then on get the new text."""
    text, file = tmp_path / "pirate.md", tmp_path / "dub5.toml"
    file.write_text(
        SETTINGS
        + f'personalities = ["pirate"]\n[[personality]]\nname = "pirate"\nfile = {json.dumps(str(text))}\n'
    )
    text.write_text("Say arr.\n")
    loaded = load(file, {"KEY": "k"})
    world = PersonalityWorld(loaded_settings(loaded.personalities["pirate"], listed=["pirate"]))
    async with world.client:
        await world.ask("chat:pirate")
        before = world.messages[0]["content"]
        text.write_text("\ufeffSay ahoy.")
        again = load(file, {"KEY": "k"}, running=loaded.settings).personalities["pirate"]
        world.service.reload(loaded_settings(again, listed=["pirate"]))
        await world.ask("chat:pirate")
    assert (before, world.messages[0]["content"], again.title) == ("Say arr.", "Say ahoy.", "pirate")


def problems(text: str, tmp_path: Path) -> list[str]:
    file = tmp_path / "dub5.toml"
    file.write_text(text)
    try:
        return list(load(file, {"KEY": "k"}).warnings)
    except SettingsProblems as error:
        return error.problems


def test_good_settings(tmp_path: Path) -> None:
    """A shipped personality needs no table; a table may give it another title, and keep its text."""
    file = tmp_path / "dub5.toml"
    file.write_text(
        SETTINGS + 'personalities = ["tutor", "short"]\n[[personality]]\nname = "short"\ntitle = "Brief"\n'
    )
    loaded = load(file, {"KEY": "k"})
    assert loaded.warnings == ()
    titles = {name: personality.title for name, personality in loaded.personalities.items()}
    assert titles == {"short": "Brief", "tutor": "Tutor"}
    assert loaded.personalities["short"].text == (FOLDER / "short.md").read_text().strip()


@pytest.mark.parametrize(
    "route, tables, content, expected",
    [
        ('"tuter"', "", None, "route 'chat': personality 'tuter' does not exist; did you mean 'tutor'?"),
        (
            '"zzz"',
            "",
            None,
            f"route 'chat': personality 'zzz' does not exist; known here: {NAMES}.",
        ),
        ('"tutor", "tutor"', "", None, "route 'chat': personality 'tutor' is listed twice."),
        (
            '"tutor"',
            '[[route]]\nname = "chat:tutor"\ntargets = ["one/m"]\n',
            None,
            "route 'chat': personality 'tutor' makes the model name 'chat:tutor', which is a route already.",
        ),
        (
            "",
            '[[personality]]\nname = "own"\n',
            None,
            NOT_SHIPPED,
        ),
        (
            '"own"',
            '[[personality]]\nname = "own"\nfile = "FILE"\n',
            None,
            "personality 'own'.file: 'FILE' cannot be read (No such file or directory).",
        ),
        (
            '"own"',
            '[[personality]]\nname = "own"\nfile = "FILE"\n[[personality]]\nname = "own"\nfile = "FILE"\n',
            b"x",
            "personality 'own': the name is used twice.",
        ),
        (
            '"own"',
            '[[personality]]\nname = "own"\nfile = "FILE"\n',
            b" \n",
            "personality 'own'.file: 'FILE' is empty.",
        ),
        (
            '"own"',
            '[[personality]]\nname = "own"\nfile = "FILE"\n',
            b"\xff",
            "personality 'own'.file: 'FILE' is not UTF-8 text.",
        ),
        (
            '"own"',
            '[[personality]]\nname = "own"\nfile = "FILE"\n',
            b"x" * (BYTES_MAX + 1),
            "personality 'own'.file: 'FILE' is larger than 32,768 bytes.",
        ),
        (
            '"own"',
            '[[personality]]\nname = "own"\nfile = "/"\n',
            None,
            "personality 'own'.file: '/' is not a file.",
        ),
        (
            "",
            '[[personality]]\nname = "tutor"\ntitle = "Mine"\n',
            None,
            "personality 'tutor': no route lists it in personalities.",
        ),
    ],
)
def test_bad_settings(route: str, tables: str, content: bytes | None, expected: str, tmp_path: Path) -> None:
    """What is wrong with a personality is one clear sentence of `check`."""
    file = tmp_path / "own.md"
    if content is not None:
        file.write_bytes(content)
    text = f"{SETTINGS}personalities = [{route}]\n{tables}".replace('"FILE"', json.dumps(str(file)))
    assert problems(text, tmp_path) == [expected.replace("FILE", str(file))]


def test_shipped_texts() -> None:
    """The shipped texts are those that the package names, and none is long: each request pays for it."""
    assert {path.stem for path in FOLDER.iterdir()} == set(SHIPPED)
    assert [path.name for path in FOLDER.iterdir() if not 100 < len(path.read_text()) < 2_000] == []


class TestThePage:
    """What docs/use/personalities.md says, holds."""

    page = (ROOT / "docs/use/personalities.md").read_text()

    def test_shipped(self) -> None:
        """The table has the shipped personalities and their titles."""
        assert dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", self.page, re.MULTILINE)) == SHIPPED

    async def test_settings(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both settings files work, and the model name of the Python example is one of the first."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "personalities").mkdir()
        (tmp_path / "personalities" / "pirate.md").write_text("Say arr.")
        first, own = re.findall(r"```toml\n(.*?)```", self.page, re.DOTALL)
        file = tmp_path / "dub5.toml"
        file.write_text(first)
        listed = load(file, {"OPENAI_API_KEY": "k"}).settings.route[0].personalities
        [model] = re.findall(r'model="(\S+)"', self.page)
        world = PersonalityWorld(loaded_settings(listed=listed))
        async with world.client:
            assert (await world.ask(model)).status == 200
        file.write_text(first.partition("[[route]]")[0] + own)
        assert load(file, {"OPENAI_API_KEY": "k"}).personalities["pirate"].text == "Say arr."

    def test_bound(self) -> None:
        """The largest file is as large as the page says."""
        assert f"up to {BYTES_MAX // 1024} KiB" in self.page
