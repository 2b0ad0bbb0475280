"""A program that uses a little of everything that asyncio leaves to sets, heaps and queues."""

import asyncio
import random

from dub5.simulators.virtual import Trace, run


async def small_world() -> list[str]:
    """Run it and return what happened, in order."""
    said: list[str] = []
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    doors = asyncio.Semaphore(3)
    rng = random.Random(1)

    async def worker(number: int) -> None:
        async with doors:
            await asyncio.sleep(rng.choice([0.1, 0.2, 0.2]))
            said.append(f"{number} in")
            await queue.put(number)

    async def waits_for_ever(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            said.append(f"{number} cancelled")

    async def fails() -> None:
        await asyncio.sleep(5)
        raise ValueError

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(worker(number))
        for _ in range(10):
            said.append(f"{await queue.get()} out")
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(waits_for_ever(number))
            group.create_task(fails())
    except* ValueError:
        said.append("group failed")
    done, _ = await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.1, number)) for number in range(10)])
    said.extend(str(task.result()) for task in done)
    return said


def digest_of_small_world(seed: int | None) -> str:
    """Return the digest of every step that the loop took."""
    trace = Trace()
    run(small_world(), seed=seed, on_step=trace)
    return trace.digest()
