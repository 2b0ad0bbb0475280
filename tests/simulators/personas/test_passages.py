"""Answers of a simulated provider about a document: whole passages with their numbers, or that none tells."""

import random

import pytest

from dub5.service.grounding.check import NOT_TOLD, Checker, StatementFinding
from dub5.service.grounding.passages import cut_into_passages
from dub5.service.grounding.prompt import grounded_prompt
from dub5.service.providers.slices import finish
from dub5.simulators.answers import Proof, judge
from dub5.simulators.latency import PRESETS
from dub5.simulators.personas.base import PersonaContext, Profile, parse_request
from dub5.simulators.personas.output import Wanted, compose
from tests.support.play import post
from tests.support.resumes import RESUME

CONTEXT = PersonaContext(Profile("one", PRESETS["zero"]), 1, random.Random(0))
PASSAGES = finish(cut_into_passages(RESUME))


def answered(system: str, question: str) -> str:
    """Return what a provider answers to a question, asked with a system message."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    parsed = parse_request(post("openai", {"model": "gpt-sim", "messages": messages}).body)
    return compose(parsed, CONTEXT, Wanted(), None).text


@pytest.mark.parametrize(
    ("question", "told"),
    [
        (
            "How large was the team of engineers?",
            "Led a team of 5 engineers and built 12 services in Go [4].",
        ),
        ("Where did she study?", "MSc Computer Science, ETH Zurich, 2014-2016 [8]."),
        ("Does she know Kafka?", "Owns the ingestion pipeline (Kafka, Python) [7]."),
    ],
)
def test_told(question: str, told: str) -> None:
    """What a passage tells is answered with it, and the service's check lets it through."""
    said = answered(grounded_prompt(PASSAGES, question), question)
    assert said == told
    assert Checker(PASSAGES).check(said, question).finding is StatementFinding.TOLD


@pytest.mark.parametrize("question", ["What is her salary?", "Does she speak Chinese?", "?"])
def test_not_told(question: str) -> None:
    """Without a word of the question in any passage, the answer says that none tells."""
    assert answered(grounded_prompt(PASSAGES, question), question) == NOT_TOLD


@pytest.mark.parametrize("system", ["Be kind.", "=== passages 0123456789abcdef ===\n[1] Half of it"])
def test_others(system: str) -> None:
    """A request without passages has an answer that proves itself."""
    assert judge(answered(system, "Hi"), "Hi") is Proof.WHOLE
