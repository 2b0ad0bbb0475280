"""Account words: what a provider's sentence says of the operator's account, which no client may read.

"Content violates usage guidelines. Team: 10c5f1d9-..., API key ID: 83c5..."      xAI
"... in organization `org_01hx...` on tokens per minute"                         Groq
"... for key sk-proj-... (you@example.com)"

Call `without_account(message)`. The names of fields stay, such as `user_location` or `tools.0.custom.key`.
`without_key` hides the key that was sent, whatever its form and whatever field repeats it.
"""

import re
from dataclasses import replace

from dub5.service.resilience.classify import Classification

HIDDEN = "***"
KEY_CHARS_MIN = 8  # a shorter one is none: local servers take any word
_OWNER = (
    r"(?:team|org(?:ani[sz]ation)?|project|workspace|account|subscription|tenant|customer|user|username|login"
    r"|(?:api|access|secret)[ _-]?key|key(?=[ _-]?id))(?:[ _-]?(?:id|uuid|name|number))?"
)
_PREFIX = r"(?:org|proj|project|team|user|acct|account|cus|ws|wrkspc|workspace|tenant|key)"
_OPENING = r"[\"'`(\[<]?"
_TOKEN = r"[\w.@+-]"
_PATTERNS = (
    # A word of an account, and what is its own: behind a sign of equality, or with a digit in it.
    rf"(?P<a>(?i:\b{_OWNER})=)[^\s&\"'`)\],;]+",
    rf"(?P<b>(?i:\b{_OWNER})(?:\s+is)?(?:\s*[:#]\s*|\s+){_OPENING})(?={_TOKEN}*\d){_TOKEN}{{4,}}\b",
    # Ids and keys that say themselves what they are.
    rf"\b{_PREFIX}[_-](?=[\w-]*[0-9A-Z])[\w-]{{6,}}",
    r"\b(?:(?:sk|pk|rk|gsk|xai|Bearer)[_ -]|AIza|eyJ)[\w.*-]{6,}",
    r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
)
_ACCOUNT = re.compile("|".join(_PATTERNS))


def without_account(message: str) -> str:
    """Return the message with each id, key and address of an account hidden."""
    return _ACCOUNT.sub(lambda found: f"{found['a'] or found['b'] or ''}{HIDDEN}", message)


def without_key(classification: Classification, key: str | None) -> Classification:
    """Return the classification without the key that was sent, which a provider may repeat in its error."""
    code, message = classification.code, classification.message
    if key is None or len(key) < KEY_CHARS_MIN or (key not in code and key not in message):
        return classification
    code = "" if key in code else code
    return replace(classification, code=code, message=message.replace(key, HIDDEN))
