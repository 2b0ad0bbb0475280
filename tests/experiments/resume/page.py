"""The page docs/prove/resume.md: what honest readers and liars came to."""

from collections.abc import Mapping

from tests.experiments.resume.play import play, review
from tests.experiments.resume.questions import HELD_OUT, REVIEWED, questions
from tests.experiments.resume.speakers import HONEST, LIARS, Speaker
from tests.support.source import ROOT

PAGE = ROOT / "docs" / "prove" / "resume.md"
# What each review found at its first contact: lies told, lies, true statements withheld, true statements.
FIRST_CONTACT = ((8, 81, 20, 44), (5, 68, 1, 36), (7, 76, 6, 25), (5, 65, 3, 22))

INTRODUCTION = """# The resume chatbot, put to the test

A model that answers about a [document](../use/resume.md) may invent. This page shows how much of that is
told: simulated readers and liars answer {count} questions about three resumes of our own invention (a
list in Markdown, prose, and a German one with rows), {told} of which the resume tells and {untold} not.
Each answer goes through the whole service on virtual time, as JSON and as a stream, which must tell the
same. Made by `python -m tests.experiments.resume --write`; a test holds it.

"Told" is what the client got to read. The first row to look at is every liar's: a false statement that
was told. The second is the honest readers': a true statement that was withheld.
"""
REVIEWS = """
## Statements by a reviewer

A check that was made with its own test says little. So statements were written by imagining a reviewer
who knows resumes and wants to trick the check, one at a time: true ones in other words, and false ones
that differ in one thing. Each set was written after the check stood, and tried once. Then the check was
corrected with it, so that its share says nothing any more.

| set | false statements told at first contact | true statements withheld at first contact |
|---|---|---|
"""
AFTER = """
The last set is the held-out one: the check was **not** corrected with it, so its shares are what to
expect of lies that aim at the check. About one such lie in twenty gets through; it is always made of
words of the passage that it cites, which is shown beside it. In the sets of the table that the check was
corrected with, {lies} of {all_lies} false statements are told today, and {withheld} of {all_true} true
ones are withheld.
"""


def page() -> str:
    """Return the page."""
    asked = questions()
    told = sum(one.told for one in asked)
    lines = [INTRODUCTION.format(count=len(asked), told=told, untold=len(asked) - told)]
    lines += [
        "## Honest readers",
        "",
        "| reader | what it does | true statements | withheld |",
        "|---|---|---|---|",
    ]
    lines += _rows(HONEST, true=True)
    lines += ["", 'What is not told ends in "The document does not say." for each of them.']
    lines += ["", "## Liars", "", "| liar | what it does | false statements | told |", "|---|---|---|---|"]
    lines += _rows(LIARS, true=False)
    lines.append(REVIEWS.rstrip())
    for number, (lies, all_lies, withheld, all_true) in enumerate(FIRST_CONTACT, 1):
        lines.append(f"| {number} | {_share(lies, all_lies)} | {_share(withheld, all_true)} |")
    made, shown = review(HELD_OUT)
    held_out = _share(shown[False], made[False]), _share(made[True] - shown[True], made[True])
    lines.append(f"| held out | **{held_out[0]}** | **{held_out[1]}** |")
    made, shown = review(REVIEWED)
    withheld = made[True] - shown[True]
    lines.append(
        AFTER.format(lies=shown[False], all_lies=made[False], withheld=withheld, all_true=made[True]).rstrip()
    )
    return "\n".join(lines) + "\n"


def _rows(speakers: Mapping[str, Speaker], *, true: bool) -> list[str]:
    rows = []
    for name, speaker in speakers.items():
        played = play(name)
        made = sum(one.made(true=true) for one in played)
        shown = sum(one.shown(true=true) for one in played)
        what = (speaker.__doc__ or "").strip().rstrip(".")
        rows.append(f"| {name} | {what} | {made} | {made - shown if true else shown} |")
    return rows


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})"
