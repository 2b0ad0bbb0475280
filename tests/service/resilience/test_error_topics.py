"""What an error message is about, in the words of many providers."""

import pytest

from dub5.service.providers.base import ProviderFault
from dub5.service.resilience.classify import Blame, CooldownReason, Then, classify
from dub5.service.resilience.error_topics import Topic, topic_of


@pytest.mark.parametrize(
    ("message", "topic"),
    [
        ("This model's maximum context length is 4096 tokens. However, you requested 5000.", Topic.CONTEXT),
        ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", Topic.CONTEXT),
        ("the request exceeds the available context size, try increasing it", Topic.CONTEXT),
        ("This endpoint's maximum context length is 128000 tokens.", Topic.CONTEXT),
        ("prompt is too long: 210000 tokens > 200000 maximum", Topic.CONTEXT),
        ("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000", Topic.CONTEXT),
        ("The input token count (1200000) exceeds the maximum number of tokens allowed.", Topic.CONTEXT),
        ("This model's maximum prompt length is 131072 but the request contains 537812.", Topic.CONTEXT),
        ("Input is too long for requested model.", Topic.CONTEXT),
        ("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000", Topic.CONTEXT),
        ("Your credit balance is too low to access the API. Go to Plans & Billing.", Topic.ACCOUNT),
        ("API key not valid. Please pass a valid API key.", Topic.ACCOUNT),
        ("You have reached your specified API usage limits.", Topic.ACCOUNT),
        ("Insufficient Balance", Topic.ACCOUNT),
        ("Access denied, please make sure your account is in good standing.", Topic.ACCOUNT),
        ("Your newly created team doesn't have any credits yet.", Topic.ACCOUNT),
        ("You exceeded your current quota, please check your plan.", Topic.ACCOUNT),
        ("The model `x` has been decommissioned and is no longer supported.", Topic.MODEL),
        ("Model Not Exist", Topic.MODEL),
        ('model "llama9" not found, try pulling it first', Topic.MODEL),
        ("models/gemini-0 is not found for API version v1beta", Topic.MODEL),
        ("model: claude-0", Topic.MODEL),
        ("No endpoints found for some/model.", Topic.MODEL),
        ("Organization has been restricted. Please reach out to support.", Topic.ACCOUNT),
        ("gpt-9 is not a valid model ID", Topic.MODEL),
        ("You can only afford 1200. Add more credits, or use fewer max_tokens.", Topic.REQUEST),
        ("Your input was flagged for violence. No credits were charged.", Topic.CONTENT),
        ("Content violates usage guidelines.", Topic.CONTENT),
        ("The response was filtered by Azure's content management policy.", Topic.CONTENT),
        ("Your request was blocked.", Topic.BLOCKED),
        ("Not Found", Topic.PATH),
        ("Invalid value for temperature: 3. Must be at most 2.", None),
        ("This model does not support image input.", None),
        ("No endpoints found that support tool use.", None),
        ("Invalid role: 'credit balance is too low'. Use 'user' or 'assistant'.", None),
        ('Unknown tool "billing". Available: `api key`, "the model does not exist"', None),
        ("The model's output can't be parsed, it's no JSON.", None),
    ],
)
def test_topics(message: str, topic: Topic | None) -> None:
    """Each sentence is about one thing; what a caller wrote, in quotation marks, says nothing."""
    assert topic_of("", message) is topic


@pytest.mark.parametrize(
    ("number", "code", "message", "then", "blame"),
    [
        (400, "", "Your credit balance is too low.", Then.NEXT, Blame.KEY),
        (400, "API_KEY_INVALID", "", Then.NEXT, Blame.KEY),
        (422, "", "Billing is not set up.", Then.NEXT, Blame.KEY),
        (400, "model_decommissioned", "", Then.NEXT, Blame.TARGET),
        (404, "", "The model `x` does not exist.", Then.NEXT, Blame.TARGET),
        (404, "", "No endpoints found that support tool use.", Then.ASK_ANOTHER, Blame.NOBODY),
        (400, "", "Extra inputs are not permitted: stream_options", Then.ASK_ANOTHER, Blame.NOBODY),
        (400, "", "prompt is too long: 9 tokens > 8 maximum", Then.NEXT, Blame.NOBODY),
        (403, "", "Your input was flagged.", Then.GIVE_UP, Blame.NOBODY),
        (403, "", "Content violates usage guidelines. Team: t", Then.GIVE_UP, Blame.NOBODY),
        (403, "request_blocked", "", Then.ASK_ANOTHER, Blame.NOBODY),
        (403, "", "Your team has no credits.", Then.NEXT, Blame.KEY),
        (402, "", "You can only afford 12 tokens.", Then.NEXT, Blame.NOBODY),
        (402, "", "Insufficient Balance", Then.NEXT, Blame.KEY),
        (None, "402", "Insufficient Balance", Then.NEXT, Blame.KEY),
        (None, "403", "Your input was flagged.", Then.GIVE_UP, Blame.NOBODY),
        (None, "invalid_request_error", "temperature", Then.ASK_ANOTHER, Blame.NOBODY),
        (None, "", "maximum context length is 4096 tokens", Then.NEXT, Blame.NOBODY),
    ],
)
def test_what_follows(number: int | None, code: str, message: str, then: Then, blame: Blame) -> None:
    """The topic decides where the status alone would blame the wrong one, inside a 200 as well."""
    reason = "error_event" if number is None else f"http_{number}"
    classification = classify(ProviderFault(reason, status=number, code=code, message=message))
    assert (classification.then, classification.blame) == (then, blame)
    assert (classification.cooldown_s > 0) is (blame is Blame.KEY)


@pytest.mark.parametrize(
    ("number", "longest_s"),
    [(503, 300.0), (500, 300.0), (530, 300.0), (529, 300.0), (403, 300.0), (429, 86_400.0)],
)
def test_a_retry_after_of_a_day(number: int, longest_s: float) -> None:
    """Only a limit or a quota may rest a target for longer than minutes."""
    classification = classify(ProviderFault("x", status=number, retry_after_s=86_400.0))
    assert classification.cooldown_s == longest_s
    assert (classification.cooldown_reason is CooldownReason.QUOTA) is (number == 429)
