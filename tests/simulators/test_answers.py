"""Self-proving answers: no mangled text is taken for a whole one."""

from hypothesis import assume, given
from hypothesis import strategies as st

from dub5.simulators.answers import Proof, answer_text, judge, pieces, prompt_tag

prompts = st.text(max_size=30)
names = st.from_regex(r"[a-z][a-z0-9.-]{0,6}", fullmatch=True)
lengths = st.integers(1, 30)


@given(names, prompts, lengths)
def test_whole_answer(provider: str, prompt: str, words: int) -> None:
    """A whole answer is judged whole; its pieces are words, and together they are the text."""
    text = answer_text(provider, prompt, words)

    assert judge(text, prompt) is Proof.WHOLE
    assert "".join(pieces(text)) == text
    assert len(pieces(text)) == words + 7
    assert text.startswith(f"{provider} answers {prompt_tag(prompt)} in {words} words: 1:")


@given(names, prompts, lengths)
def test_cut_anywhere(provider: str, prompt: str, words: int) -> None:
    """An answer cut at any character, or never begun, is judged cut."""
    text = answer_text(provider, prompt, words)
    assert {judge(text[:i], prompt) for i in range(len(text))} == {Proof.CUT}


@given(names, names, prompts, lengths, lengths, st.data())
def test_two_answers_mixed(
    a: str, b: str, prompt: str, words_a: int, words_b: int, data: st.DataObject
) -> None:
    """The beginning of one answer with any end of another is judged spliced; so is a repeated piece."""
    one, two = answer_text(a, prompt, words_a), answer_text(b, prompt, words_b)
    begins = data.draw(st.integers(one.index(": ") + 2, len(one)))
    goes_on = data.draw(st.integers(0, len(two) - 1))
    mixed = one[:begins] + two[goes_on:]
    assume(mixed != one and not one.startswith(mixed))

    assert judge(mixed, prompt) is Proof.SPLICED


@given(names, names, prompts, lengths, st.data())
def test_mixed_in_the_opening(a: str, b: str, prompt: str, words: int, data: st.DataObject) -> None:
    """Two answers mixed in their first words are never judged whole."""
    one, two = answer_text(a, prompt, words), answer_text(b, prompt, words)
    mixed = one[: data.draw(st.integers(1, 25))] + two[data.draw(st.integers(1, len(two) - 1)) :]
    assume(mixed not in (one, two))

    assert judge(mixed, prompt) is not Proof.WHOLE


@given(names, prompts, prompts, lengths)
def test_answer_to_somebody_else(provider: str, prompt: str, other: str, words: int) -> None:
    """The answer to another prompt is judged foreign."""
    assume(prompt != other)
    assert judge(answer_text(provider, other, words), prompt) is Proof.FOREIGN


def test_no_answer_of_ours() -> None:
    """A page, a notice, or a text with one changed word is not the answer."""
    assert judge("<html>502 Bad Gateway</html>", "hi") is Proof.FOREIGN
    assert judge("This model is being deprecated.", "hi") is Proof.FOREIGN
    text = answer_text("one", "hi", 5)
    assert judge(text.replace("3:", "4:"), "hi") is Proof.SPLICED
    assert judge(text + "!", "hi") is Proof.SPLICED
