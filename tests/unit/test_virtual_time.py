"""Virtual time: it moves when nobody is awake, and to nothing less than the next timer."""

import asyncio
from contextlib import suppress

from tests.sim.virtual_time import run_virtually


async def waits_for(due: float, steps_late: int, looks: list[float]) -> None:
    """Wait as service loops do: look at the clock, wait for what is left, look again."""
    loop = asyncio.get_running_loop()
    for _ in range(steps_late):
        await asyncio.sleep(0)
    while (now := loop.time()) < due:
        looks.append(now)
        assert len(looks) < 100, "time stands still"
        with suppress(TimeoutError):
            async with asyncio.timeout(due - now):
                await asyncio.Event().wait()


def test_two_loops_that_wait_for_the_next_nanosecond_do_not_stop_time() -> None:
    async def story() -> None:
        await asyncio.sleep(0.127)
        now, looks = asyncio.get_running_loop().time(), []
        await asyncio.gather(*(waits_for(now + 5e-10, late, looks) for late in range(4)))

    run_virtually(story())


def test_a_timer_is_never_early() -> None:
    async def story() -> list[float]:
        loop = asyncio.get_running_loop()
        woken = []
        for delay_s in (1e-12, 3e-10, 0.1, 3_600.0, 1e-9):
            due = loop.time() + delay_s
            await asyncio.sleep(delay_s)
            woken.append(loop.time() - due)
        return woken

    assert run_virtually(story()) == [0.0] * 5
