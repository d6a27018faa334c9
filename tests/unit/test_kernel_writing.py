"""Writing to a child that has ended, or a connection that broke, is an OSError on every loop."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from shem.kernel.piped import PipedProcess, start_piped
from shem.kernel.writing import put, put_all, put_end

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
Loop = Callable[[], asyncio.AbstractEventLoop]
Story = Coroutine[Any, Any, None]
ENDED_S = 10


def run(loop: Loop, story: Story) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(story)


async def ended(directory: Path) -> PipedProcess:
    """Return a child that has ended, when its pipe is known to be broken."""
    child = await start_piped(["true"], cwd=directory, env={"PATH": "/usr/bin:/bin"}, log=None)
    await child.wait()
    async with asyncio.timeout(ENDED_S):
        while not child.stdin.is_closing():  # noqa: ASYNC110 - the loop is told by the system
            await asyncio.sleep(0.01)
    return child


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_put_to_an_ended_child_is_a_broken_pipe(tmp_path: Path, loop: Loop) -> None:
    async def story() -> None:
        child = await ended(tmp_path)
        for _ in range(3):
            with pytest.raises(BrokenPipeError, match="is closed"):
                put(child.stdin, b"anything")
            with pytest.raises(OSError, match="is closed"):
                await put_all(child.stdin, b"anything")
            put_end(child.stdin)
        child.close()

    run(loop, story())


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_put_arrives_whole_and_so_does_its_end(tmp_path: Path, loop: Loop) -> None:
    async def story() -> None:
        child = await start_piped(["cat"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, log=None)
        put(child.stdin, b"first ")
        await put_all(child.stdin, b"x" * 1_000)
        put_end(child.stdin)
        async with asyncio.timeout(ENDED_S):
            assert await child.stdout.read() == b"first " + b"x" * 1_000
            assert await child.wait() == 0
        child.close()

    run(loop, story())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_reader_that_goes_while_much_is_written_is_an_os_error(
    tmp_path: Path, loop: Loop
) -> None:
    async def story() -> None:
        command = ["head", "-c", "1"]
        child = await start_piped(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, log=None)
        async with asyncio.timeout(ENDED_S):
            with pytest.raises(OSError):
                while True:
                    await put_all(child.stdin, b"x" * 100_000)
            await child.wait()
        child.close()

    run(loop, story())
