"""Odd forms change how a stream is written, and nothing of its answer."""

from random import Random

import pytest

from dub5.simulators.faults.base import is_stream
from dub5.simulators.latency import PRESETS
from dub5.simulators.odd_forms import ODD_FORMS, OddForm
from dub5.simulators.personas.base import Profile
from dub5.simulators.provider import SimulatedProvider
from dub5.simulators.script import Data, Head, SimRequest
from tests.experiments.upstream_reading import upstream

BODY = b'{"model":"gpt-sim","stream":true,"max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}'
CALLS = {
    "openai": ("/v1/chat/completions", {"authorization": "Bearer k"}),
    "mistral": ("/v1/chat/completions", {"authorization": "Bearer k"}),
    "anthropic": ("/v1/messages", {"x-api-key": "k", "anthropic-version": "2023-06-01"}),
}


def played(persona: str, form: OddForm | None) -> tuple[Head, bytes]:
    """Return head and body of a stream."""
    provider = SimulatedProvider(
        persona, Profile("one", PRESETS["zero"], words=5), rng=Random(1), now=lambda: 0.0, form=form
    )
    path, headers = CALLS[persona]
    script = list(provider(SimRequest("POST", path, {"content-type": "application/json"} | headers, BODY)))
    (head,) = [action for action in script if isinstance(action, Head)]
    return head, b"".join(action.data for action in script if isinstance(action, Data))


@pytest.mark.parametrize("persona", CALLS)
@pytest.mark.parametrize("form", ODD_FORMS)
def test_the_answer_stays(persona: str, form: OddForm) -> None:
    """The bytes differ, or their type; the answer in them is the same, and whole."""
    (plain, body), (head, odd) = played(persona, None), played(persona, form)
    assert (head, odd) != (plain, body) or (persona == "anthropic" and form == "finish_everywhere")
    assert plain.status == head.status == 200
    assert is_stream(head) == (form != "json_type")
    expected, seen = upstream(persona, True, body), upstream(persona, True, odd)
    assert expected.whole and seen.texts == expected.texts
