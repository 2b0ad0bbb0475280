"""Defects of the service that the simulation found, each kept as a test."""

from dub5.simulators.script import Data, End, Head, Wait
from tests.support.world import SSE, ServiceWorld, chunk, script


async def test_a_provider_that_lingers_after_the_end_leaves_the_answer_complete() -> None:
    """An answer is complete once its client has read [DONE], even if the provider keeps the connection
    open."""
    done = Data(b"data: [DONE]\n\n")
    lingering = script(Head(200, SSE), chunk({"content": "hello"}), chunk({}, "stop"), done, Wait(6.0), End())
    async with ServiceWorld(one=lingering) as world:
        answer = await world.ask(stream=True)
    assert answer.body.endswith(b"[DONE]\n\n")
    assert world.outcomes() == {"complete": 1}
