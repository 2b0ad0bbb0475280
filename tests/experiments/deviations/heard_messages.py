"""What an application hears of an answer through the anthropic package."""

from typing import Any

import anthropic

from tests.experiments.deviations.heard import MESSAGES, Heard, error_name


def hear_messages(client: anthropic.Anthropic, *, stream: bool) -> Heard:
    """Ask for an answer."""
    heard = Heard()
    try:
        create: Any = client.messages.create
        answer = create(model="m", messages=MESSAGES, max_tokens=100, stream=stream)
        if stream:
            for event in answer:
                _add(heard, event)
        else:
            heard.text = "".join(block.text for block in answer.content if block.type == "text")
    except Exception as error:  # noqa: BLE001 whatever the package raises is what we came to hear
        heard.error = error_name(error)
    return heard


def _add(heard: Heard, event: Any) -> None:
    delta = event.delta if event.type == "content_block_delta" else None
    if delta is not None and delta.type == "text_delta":
        heard.text += delta.text or ""
    elif delta is not None and delta.type == "input_json_delta":
        heard.calls[event.index] = heard.calls.get(event.index, "") + delta.partial_json
