"""Account words: a refusal is told in the provider's words, without those of the operator's account."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.failover.account_words import without_account
from tests.support.examples import examples
from tests.support.world import ServiceWorld, status

SECRETS = (
    "10c5f1d9-1234-4abc-9def-001122334455",
    "83c5aa1100",
    "org-AbC123dEf456",
    "org_01hxyz9876543210",
    "proj_9XyZabc123",
    "user-3fk29dkFf",
    "sk-proj-abcdefghijkl0123456789",
    "gsk_ABCDEFGHabcdefgh",
    "AIzaSyA-abcdefghijklmnop",
    "ops@example.com",
)
PLACES = (
    "Team: {}",
    "API key ID: {}",
    "for organization `{}`",
    "in organization {} on project {}",
    "(team_id={})",
    "your account is {}.",
    "workspace '{}'",
    "user {}",
    "See https://provider.test/credits?account={}&tab=1",
    "API key: {}",
)
SAID = ("Content violates usage guidelines.", "Your prompt was flagged by the content filter.")


@given(
    st.sampled_from(SAID), st.lists(st.sampled_from(PLACES), min_size=1, max_size=2), st.sampled_from(SECRETS)
)
@examples(200)
def test_hidden(said: str, places: list[str], secret: str) -> None:
    """Whatever a sentence says of an account is hidden, and the rest of it stays."""
    told = without_account(f"{said} {', '.join(places)}".replace("{}", secret) + " Model: grok-3.")
    assert secret not in told
    assert told.startswith(said) and told.endswith(" Model: grok-3.")


@pytest.mark.parametrize(
    "message",
    [
        "user: Input should be a valid string",
        "messages.3.content: must be a text",
        "Unknown parameter: 'user_location'.",
        "tools.0.function.parameters: key 'max_items_2' is not known",
        "The user message 12 is empty.",
        "Invalid value for temperature: 3.",
        "No tool call with id call_abc123 was found for tool_call_id toolu_01AbC.",
        "This model does not support key_value_pairs in project_description.",
        "Unknown field 'account' at 12345.",
    ],
)
def test_fields_stay(message: str) -> None:
    """The names of fields, and ids of the client's own, are what helps to correct a request."""
    assert without_account(message) == message


@pytest.mark.parametrize("words", [SAID[0], "Invalid value for temperature."])
@pytest.mark.parametrize("number", [400, 422])
async def test_a_refusal_is_told_without(number: int, words: str) -> None:
    """A filter's refusal, and one that two providers agree on, reach the client without the account."""
    text = f"{words} Team: {SECRETS[0]}, {SECRETS[2]}"
    refuses = status(number, json.dumps({"error": {"message": text}}).encode())
    async with ServiceWorld(one=refuses, two=refuses) as world:
        answer = await world.ask()
    assert answer.json()["error"]["message"].startswith(f"{words} Team: ***, ***.")
    assert not any(secret in answer.body.decode() for secret in SECRETS)


KEY = "a1b2c3d4e5f60718293a4b5c6d7e8f90"  # of a form that no pattern knows


@pytest.mark.parametrize("number", [200, 400, 401, 403, 404, 429, 500])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_that_comes_back(number: int, stream: bool) -> None:
    """A provider that repeats the key in each field of its error: no reply, event or page has it."""
    said = {"message": f"Nobody knows {KEY}.", "code": KEY, "type": KEY, "status": KEY}
    refusal = status(number, json.dumps({"error": said}).encode(), {"x-request-id": KEY})
    seen: list[str] = []
    async with ServiceWorld(one=refusal, keys={"one": (KEY,)}) as world:
        world.service.events.subscribe(lambda event: seen.append(repr(event)))
        answers = [await world.ask(stream=stream) for _ in range(2)]
        pages = [await world.client.request("GET", page) for page in ("/status", "/metrics")]
        assert seen
        told = [answer.body.decode() + repr(answer.headers) for answer in (*answers, *pages)]
        assert not [text for text in (*seen, *told) if KEY in text]
