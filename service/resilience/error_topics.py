"""Topics of error messages: what a provider's sentence is about, where its status and code do not say so.

    content   the request's content breaks a rule     filter, moderation
    context   the conversation is too long            vLLM, SGLang, llama.cpp, OpenRouter, DeepSeek, Anthropic
    request   this request costs more than is left    OpenRouter's 402
    account   our key, credit, plan or quota          "credit balance is too low" (Anthropic)
    model     the model is gone or unknown            Groq's "has been decommissioned"
    path      there is nothing at this address        a wrong `base_url`
    blocked   something in front blocked the request  a firewall

Call `topic_of(code, message)`. What stands in quotation marks is left out: it may be the caller's own text.
"""

import re
from collections.abc import Mapping
from enum import StrEnum


class Topic(StrEnum):
    """What an error message is about."""

    CONTENT = "content"
    CONTEXT = "context"
    REQUEST = "request"
    ACCOUNT = "account"
    MODEL = "model"
    PATH = "path"
    BLOCKED = "blocked"


CODES = {
    **dict.fromkeys(("content_filter", "content_policy_violation", "content_blocked"), Topic.CONTENT),
    **dict.fromkeys(("moderation_blocked", "data_inspection_failed", "DataInspectionFailed"), Topic.CONTENT),
    **dict.fromkeys(("context_length_exceeded", "model_context_window_exceeded"), Topic.CONTEXT),
    "exceed_context_size_error": Topic.CONTEXT,
    **dict.fromkeys(("billing_hard_limit_reached", "billing_not_active", "billing_error"), Topic.ACCOUNT),
    **dict.fromkeys(("insufficient_credits", "insufficient_balance", "Arrearage"), Topic.ACCOUNT),
    **dict.fromkeys(("insufficient_quota", "credit_balance_exhausted"), Topic.ACCOUNT),
    **dict.fromkeys(("API_KEY_INVALID", "API_KEY_EXPIRED", "invalid_api_key"), Topic.ACCOUNT),
    **dict.fromkeys(("organization_restricted", "account_deactivated"), Topic.ACCOUNT),
    **dict.fromkeys(("model_decommissioned", "model_not_found", "model_not_available"), Topic.MODEL),
    **dict.fromkeys(("model_deprecated", "invalid_model", "DeploymentNotFound"), Topic.MODEL),
    "request_blocked": Topic.BLOCKED,
    "request_too_large": Topic.REQUEST,
}

# An account that was closed, for whatever reason: before the topics of content, which name the same rules.
_CLOSED = re.compile(
    r"(?:your|this) (?:account|organi[sz]ation|subscription|workspace|project|team|api key)\b.{0,40}\b"
    r"(?:has been|have been|was|is) (?:\w+ ){0,2}"
    r"(?:suspended|deactivated|disabled|restricted|banned|terminated)"
)
# The words of each topic. The first topic that is found decides.
_WORDS: Mapping[Topic, tuple[str, ...]] = {
    Topic.CONTENT: (
        r"content (?:filter|polic|management polic|moderat|violat|safety)",
        r"moderation|usage (?:guideline|polic)|malicious|prompt injection|jailbreak",
        r"(?:safety|acceptable use) (?:polic|guideline|system|filter|check)",
        (
            r"(?:input|prompt|content|request|message|text)s? (?:\w+ ){0,3}"
            r"(?:flagged|inappropriate|harmful|unsafe|prohibited)"
        ),
        r"(?:inappropriate|harmful|unsafe|prohibited|disallowed|sensitive) content",
    ),
    Topic.CONTEXT: (
        r"context (?:length|size|window|limit)|maximum (?:prompt|input|sequence) length",
        r"(?:prompt|input|conversation)\b.{0,40}\btoo (?:long|large|many)",
        r"too many (?:input |prompt )?tokens|(?:input|prompt) token count|reduce the length of",
        r"exceeds? .{0,40}\b(?:number of|token limit|max\w* tokens)",
        r"tokens \+ .{0,20}must be <=|tokens > \d+ max",
    ),
    Topic.REQUEST: (r"can only afford|fewer max_tokens",),
    Topic.ACCOUNT: (
        r"credit balance|billing|arrears|api[ _-]?key|usage limits?|spend(?:ing)? limit|monthly limit",
        r"payment (?:is )?(?:required|method|failed|overdue)|organi[sz]ation has been",
        (
            r"(?:insufficient|not enough|no|any|out of|purchase|buy|add) (?:\w+ ){0,3}"
            r"(?:credits?|balance|funds|quota)\b"
        ),
        (
            r"(?:credits?|balance|quota|funds)\b.{0,40}"
            r"(?:exhausted|exceeded|used up|depleted|too low|insufficient|run out)"
        ),
        r"exceeded .{0,30}(?:quota|budget|spend)",
        (
            r"(?:your|this) (?:account|organi[sz]ation|subscription|workspace|project|team|plan)\b.{0,40}\b"
            r"(?:suspended|deactivated|disabled|restricted|inactive|not active|overdue|expired|good standing)"
        ),
    ),
    Topic.MODEL: (
        r"\bmodel\b.{0,80}\b(?:decommissioned|not exist|end of its life|deprecated|retired|no longer)",
        r"(?:not a valid|invalid|unknown|no such) model\b|model identifier is invalid|^model: ",
        r"\bmodels?[\s/]+(?:\S+\s+){0,2}?(?:was |is )?not found|no endpoints found (?:for|matching)",
        r"no longer .{0,20}\bmodel\b",
    ),
    Topic.PATH: (
        r"^\W*(?:404\W+)?(?:page |resource )?not found\W*$",
        r"invalid url|unknown (?:request )?(?:url|path)",
    ),
    Topic.BLOCKED: (
        r"firewall|\bwaf\b|(?:request|access|you)\b.{0,20}\b(?:was|is|has been|have been|been) blocked",
    ),
}
_PATTERNS = ((Topic.ACCOUNT, _CLOSED),) + tuple(
    (topic, re.compile("|".join(words))) for topic, words in _WORDS.items()
)
_QUOTED = re.compile(r"\"[^\"]*\"|`[^`]*`|(?<!\w)'[^']*'(?!\w)")


# A rate limit that one request alone exceeds, in words or in numbers: waiting does not help.
_NEVER_FITS = re.compile(
    r"request (?:is |was )?too (?:large|big)|tokens must be reduced|reduce your (?:message|request) size"
    r"|required for long context|larger than (?:the|your) (?:\w+ ){0,3}(?:rate )?limit"
)
_NUMBER = r"(?P<{}>\d[\d,_]*)"
_LIMIT, _REQUESTED = (r"\b" + word + r"\b\D{0,20}" + _NUMBER.format(word) for word in ("limit", "requested"))
_NUMBERS = tuple(map(re.compile, (f"{_LIMIT}.{{0,60}}?{_REQUESTED}", f"{_REQUESTED}.{{0,60}}?{_LIMIT}")))


def never_fits(message: str) -> bool:
    """Return whether a rate limit's message says that this request alone is larger than the limit."""
    words = _QUOTED.sub(" ", message).lower()
    if _NEVER_FITS.search(words):
        return True
    found = next(filter(None, (pattern.search(words) for pattern in _NUMBERS)), None)
    return found is not None and _number(found["requested"]) > _number(found["limit"])


def _number(text: str) -> int:
    return int(re.sub(r"\D", "", text))


def topic_of(code: str, message: str) -> Topic | None:
    """Return the topic of an error, by its code, else by the provider's own words; None if it is another."""
    if (topic := CODES.get(code)) is not None:
        return topic
    words = _QUOTED.sub(" ", message).lower()
    return next((topic for topic, pattern in _PATTERNS if pattern.search(words)), None)
