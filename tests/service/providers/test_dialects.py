"""The table in docs/use/dialects.md and the code, held together: each row is sent through each dialect."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dub5.service.config.load import load
from dub5.service.config.settings import DialectOverrides, SettingsProblems
from dub5.service.providers.anthropic import AnthropicDialect
from dub5.service.providers.base import Dialect, EncodedRequest, Unsupported
from dub5.service.providers.mistral import MistralDialect
from dub5.service.providers.openai import OpenAIDialect
from tests.support.dialect_requests import embed_request, request
from tests.support.source import ROOT

PAGE = (ROOT / "docs" / "use" / "dialects.md").read_text()
NEWER = "2026-10-21"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
HI = {"role": "user", "content": "Hi"}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "1"}


def said(**message: object) -> dict[str, object]:
    return {"messages": [HI, {"role": "user", "content": "Ho", **message}]}


SAMPLES: dict[str, dict[str, Any]] = {
    "`messages`: role `developer`": said(role="developer"),
    "`messages`: images": said(content=[{"type": "image_url", "image_url": {"url": "https://a.test/a.png"}}]),
    "`messages`: audio, files": said(
        content=[{"type": "input_audio", "input_audio": {"data": "", "format": "mp3"}}]
    ),
    "`messages`: tool calls": {"messages": [HI, CALLING, RESULT]},
    "`messages`: tool results": {"messages": [HI, CALLING, RESULT]},
    "`messages`: role `function`": said(role="function", name="f"),
    "`messages`: `name`": said(name="ann"),
    "`messages`: `reasoning_content`": said(role="assistant", reasoning_content="Hm"),
    "`max_completion_tokens`": {"max_completion_tokens": 9},
    "`max_tokens`": {"max_tokens": 9},
    "`temperature`": {"temperature": 0.5},
    "`temperature`, version 2026-10-21": {"temperature": 0.5},
    "`top_p`": {"top_p": 0.5},
    "`stop`": {"stop": ["x"]},
    "`n`": {"n": 2},
    "`seed`": {"seed": 7},
    "`user`": {"user": "u-1"},
    "`response_format`: JSON schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    },
    "`response_format`: any JSON object": {"response_format": {"type": "json_object"}},
    "`tools`": {"tools": [TOOL]},
    "`tool_choice`": {"tools": [TOOL], "tool_choice": "required"},
    "`parallel_tool_calls`": {"tools": [TOOL], "parallel_tool_calls": False},
    "`functions`": {"functions": [{"name": "f"}]},
    "`logprobs`": {"logprobs": True},
    "`top_logprobs`": {"top_logprobs": 2},
    "`modalities` with audio": {"modalities": ["text", "audio"]},
    "`web_search_options`": {"web_search_options": {"search_context_size": "low"}},
    "`stream`": {"stream": True},
    "`stream_options`: `include_usage`": {"stream": True, "stream_options": {"include_usage": True}},
    "`stream_options`: others": {
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": True},
    },
    "`presence_penalty`, `frequency_penalty`": {"presence_penalty": 0.5, "frequency_penalty": 0.5},
    "`logit_bias`": {"logit_bias": {"5": -100}},
    "`reasoning_effort`": {"reasoning_effort": "high"},
    "`prediction`": {"prediction": {"type": "content", "content": "Hi"}},
    "`metadata`": {"metadata": {"a": "b"}},
    "`store`": {"store": True},
    "`service_tier`": {"service_tier": "flex"},
    "an unknown field": {"unheard_of": 1},
}


def table(first_cell: str, heading: str) -> list[list[str]]:
    """The rows of the table under `heading` whose head begins with `first_cell`."""
    part = PAGE.split(heading, 1)[1].split(f"| {first_cell} |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in part.splitlines()[2:]]


ROWS = table("field", "# Dialects")
COLUMNS = ("openai", "anthropic", "mistral")


def dialect(name: str, row: str) -> Dialect:
    version = NEWER if NEWER in row else None
    known: dict[str, Dialect] = {
        "openai": OpenAIDialect(10_000),
        "anthropic": AnthropicDialect(10_000, version, 4096),
        "mistral": MistralDialect(10_000),
    }
    return known[name]


def observed(speaker: Dialect, fields: dict[str, Any]) -> tuple[str, EncodedRequest | None]:
    """What became of the last of these fields, in the table's words."""
    name = list(fields)[-1]
    try:
        call = speaker.encode(request(**fields), "m", None)
    except Unsupported as error:
        assert re.split(r"[.\[]", error.param)[0] == name, "the error names the field"
        return "400", None
    if any(re.split(r"[.\[]", one)[0] == name for one in call.dropped):
        return "dropped", call
    there = json.loads(call.body)
    return ("passed" if there.get(name) == fields[name] else "translated"), call


def test_every_row_has_a_sample() -> None:
    """Every row of the table has a sample that tests it."""
    assert [row[0] for row in ROWS] == list(SAMPLES)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_table(row: list[str], column: str) -> None:
    """What the page says is what happens, and nothing goes missing in silence."""
    fields = SAMPLES[row[0]]
    became, call = observed(dialect(column, row[0]), fields)
    assert became == re.split(r"[:;,( ]", row[1 + COLUMNS.index(column)])[0]
    if became == "translated" and call is not None:
        without = {name: value for name, value in fields.items() if name != list(fields)[-1]}
        before = dialect(column, row[0]).encode(request(**without), "m", None)
        usage_of_ours = "stream_options" in fields
        assert usage_of_ours or json.loads(before.body) != json.loads(call.body), "it left a trace"


EMBED_SAMPLES: dict[str, dict[str, Any]] = {
    "`input`": {"input": ["a"]},
    "`input`: token numbers": {"input": [1, 2]},
    "`dimensions`": {"dimensions": 3},
    "`encoding_format`": {"encoding_format": "base64"},
    "`user`": {"user": "u-1"},
}
EMBED_ROWS = table("field", "### Embeddings")


@pytest.mark.parametrize("column", ("openai", "mistral"))
@pytest.mark.parametrize("row", EMBED_ROWS, ids=lambda row: row[0])
def test_embeddings_table(row: list[str], column: str) -> None:
    """The same for vectors; how the format is translated shows in the answer (api/test_embeddings.py)."""
    assert [one[0] for one in EMBED_ROWS] == list(EMBED_SAMPLES)
    fields, speaker = EMBED_SAMPLES[row[0]], dialect(column, "")
    [(name, value)] = fields.items()
    said = re.split(r"[:;,( ]", row[1 if column == "openai" else 2])[0]
    try:
        call = speaker.encode_embeddings(embed_request(**fields), "m", None)
    except Unsupported as error:
        assert (said, error.param) == ("400", name)
        return
    there = json.loads(call.body)
    became = "dropped" if name in call.dropped else "passed" if there.get(name) == value else "translated"
    assert became == said


class TestDifferences:
    """Settings of providers that are only nearly compatible."""

    def encode(self, overrides: DialectOverrides, **fields: object) -> tuple[dict[str, Any], tuple[str, ...]]:
        call = OpenAIDialect(10_000, overrides).encode(request(**fields), "m", "sk")
        return json.loads(call.body), call.dropped

    def test_names(self) -> None:
        """Another name; one that the client used already stays the client's."""
        overrides = DialectOverrides(renames={"max_completion_tokens": "max_tokens"})
        assert self.encode(overrides, max_completion_tokens=9)[0]["max_tokens"] == 9
        there, dropped = self.encode(overrides, max_completion_tokens=9, max_tokens=5)
        assert (there["max_tokens"], dropped) == (5, ("max_completion_tokens",))

    def test_left_out(self) -> None:
        """A dropped field is named, unless it has no effect."""
        overrides = DialectOverrides(
            drops=("logit_bias", "user", "messages.name", "stream_options"), developer_role=False
        )
        messages = [{"role": "developer", "content": "a", "name": "x"}, {"role": "user", "content": "b"}]
        there, dropped = self.encode(
            overrides, messages=messages, logit_bias={"5": 1}, user=None, stream=True
        )
        assert there.keys() == {"model", "messages", "stream"}
        assert there["messages"][0] == {"role": "system", "content": "a"}
        assert dropped == ("logit_bias", "messages.name")

    def test_what_it_cannot_do(self) -> None:
        """Another target is asked, unless the field says nothing."""
        overrides = DialectOverrides(refuses=("n", "logprobs"))
        assert "n" not in self.encode(overrides, n=1, logprobs=False)[0]
        with pytest.raises(Unsupported, match="n"):
            self.encode(overrides, n=2)

    @pytest.mark.parametrize("name", COLUMNS)
    def test_headers(self, name: str) -> None:
        """Configured headers are sent as they are, and never replace the service's own."""
        overrides = DialectOverrides(headers={"X-Title": "t", "user-agent": "other"})
        speaker = {
            "openai": OpenAIDialect(10_000, overrides),
            "anthropic": AnthropicDialect(10_000, None, 9, overrides),
            "mistral": MistralDialect(10_000, overrides),
        }[name]
        headers = speaker.encode(request(), "m", "sk").headers
        assert headers["X-Title"] == "t"
        assert headers["user-agent"].startswith("dub5/")


def test_headers_of_ours_stay_ours(tmp_path: Path) -> None:
    """A key in the settings file would be a key in the repository."""
    file = tmp_path / "dub5.toml"
    file.write_text(
        """
        [[provider]]
        name = "one"
        dialect = "openai"
        base_url = "https://one.test/v1"
        [provider.overrides.headers]
        Authorization = "Bearer sk-1"
        [[route]]
        name = "chat"
        targets = ["one/m"]
        """
    )
    with pytest.raises(
        SettingsProblems, match=r"provider 'one'.overrides.headers: Authorization is set by"
    ) as caught:
        load(file, {})
    assert "sk-1" not in str(caught.value)


def test_names_of_dropped_fields_are_harmless() -> None:
    """Names of dropped fields, which callers choose, are safe in a header."""
    dropped = (
        AnthropicDialect(10_000, None, 9).encode(request(**{"x\r\nset-cookie: a=b,": 1}), "m", None).dropped
    )
    assert dropped == ("x??set-cookie??a?b?",)
