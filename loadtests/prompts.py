"""Questions as people type them: short ones, pasted texts, programs, other languages. Call `question(rng)`.

Each is in the clean form of docs/use/sanitising.md, so that a provider gets it as it is here, and holds a
number, so that no two are equal.
"""

from random import Random

SUBJECTS = ("breakers", "tides", "sourdough", "prime numbers", "glaciers", "leases", "jet lag", "compilers")
SENTENCES = (
    "The first report came in shortly after midnight.",
    "Nobody had changed the settings since spring.",
    "It took the team two hours to see what all three had in common.",
    "What looked like a slow network was a queue that never became empty.",
    "The second attempt went through, the third one did not.",
)
PROGRAM = """\
def total(prices):
    result = 0
    for price in prices:
        if price > {limit}:
            result += price
    return result
"""
SHARES = {"short": 6, "steps": 3, "pasted": 2, "program": 2, "languages": 1}
PASTED_SENTENCES = (4, 25)  # at most 1,700 characters: a question may have 2,000


def question(rng: Random) -> str:
    """Draw a question of any kind."""
    kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
    return question_of(kind, rng)


def question_of(kind: str, rng: Random) -> str:
    """Draw a question of one kind, a name in SHARES."""
    number, subject = rng.getrandbits(48), rng.choice(SUBJECTS)
    match kind:
        case "short":
            return f"What are {subject}? (No. {number})"
        case "steps":
            steps = "\n".join(f"{i}. what is done with {rng.choice(SUBJECTS)}" for i in range(1, 6))
            return f"Explain {subject}, in this order:\n{steps}\n\nCompare it with No. {number}."
        case "pasted":
            text = " ".join(rng.choices(SENTENCES, k=rng.randint(*PASTED_SENTENCES)))
            return f"Sum up report {number} in two sentences:\n\n{text}"
        case "program":
            program = PROGRAM.format(limit=number).rstrip()
            return f"What does this return for [1, 20, 300], and why?\n\n{program}"
        case "languages":
            return f"Übersetze „Größe“ und «naïveté» ins 日本語 und ins Русский, bitte 🙂 (Nr. {number})"
    raise ValueError(f"no kind of question {kind!r}: {', '.join(SHARES)}")
