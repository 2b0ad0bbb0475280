"""What the simulation found in the service, each kept as a test of its own."""

from dub5.simulators.script import Data, End, Head, Wait
from tests.support.world import SSE, ServiceWorld, chunk, script


async def test_a_provider_that_lingers_after_the_end_leaves_the_answer_complete() -> None:
    """All was sent, and the reader saw the end: what the server then tells us is not a client that has left."""
    done = Data(b"data: [DONE]\n\n")
    lingering = script(Head(200, SSE), chunk({"content": "hello"}), chunk({}, "stop"), done, Wait(6.0), End())
    async with ServiceWorld(one=lingering) as world:
        answer = await world.ask(stream=True)
    assert answer.body.endswith(b"[DONE]\n\n")
    assert world.outcomes() == {"complete": 1}
