"""The intake of a route, as properties: what the service reads of a request is what is sent."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.admission.intake import Intake, build_intake
from dub5.service.config.options import SanitizeOptions
from dub5.service.config.settings import Personality
from dub5.service.errors import InvalidRequest
from dub5.service.model import ChatRequest, Message
from dub5.service.providers.slices import finish
from tests.support.dialect_requests import request
from tests.support.examples import examples

TUTOR = Personality("tutor", "Tutor", "Be patient.\n\nAsk back.")
FLAGGING = SanitizeOptions(enabled=True, question_chars_max=20, injection="flag")
TEXTS = st.text(st.sampled_from("ab \t\r\n\x00\u3000e\u0301\U0001f600"), max_size=30)
PARTS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, TEXTS),
    st.builds(lambda text: {"type": "image_url", "image_url": {"url": text}}, TEXTS),
    st.sampled_from([{"type": "text"}, {"type": "text", "text": None}, {"text": 7}, {}]),
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]),
            "content": st.one_of(TEXTS, st.none(), st.lists(PARTS, max_size=3)),
        },
        optional={"name": TEXTS, "extra": TEXTS},
    ),
    min_size=1,
    max_size=5,
)


def taken(intake: Intake, asked: ChatRequest) -> ChatRequest:
    return finish(intake.take(asked))[0]


@examples(200)
@given(MESSAGES, st.sampled_from([FLAGGING, SanitizeOptions()]), st.sampled_from([None, TUTOR]))
def test_one_request(
    messages: list[object], options: SanitizeOptions, personality: Personality | None
) -> None:
    """What is sent and what the service reads of it are the same; done again, nothing is left to clean."""
    asked = request(messages=messages)
    intake = build_intake(options, personality)
    if intake is None:
        assert (options.enabled, personality) == (False, None)
        return
    try:
        done = taken(intake, asked)
    except InvalidRequest as error:
        assert error.code == "question_too_long"
        return
    assert done.body.messages == msgspec.json.decode(done.fields["messages"], type=list[Message])
    assert len(done.body.messages) == len(messages) + (personality is not None)
    cleaner = Intake(options, None)
    assert taken(cleaner, done).fields["messages"] == done.fields["messages"]


@examples(100)
@given(MESSAGES)
def test_roles_and_others(messages: list[dict[str, object]]) -> None:
    """Roles, order, names and unknown fields stay, and so does all that the assistant said."""
    try:
        done = taken(Intake(SanitizeOptions(enabled=True), TUTOR), request(messages=messages))
    except InvalidRequest:
        return
    first, *others = msgspec.json.decode(done.fields["messages"])
    assert first == {"role": "system", "content": TUTOR.text}
    kept = lambda one: {k: v for k, v in one.items() if k != "content" or one["role"] == "assistant"}
    assert list(map(kept, others)) == list(map(kept, messages))
