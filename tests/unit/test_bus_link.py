"""A link whose connection breaks: whoever writes is told, on both kinds of event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import uvloop

from shem.bus.link import Link
from shem.bus.types import LOCAL_CALLER, Call, GsbError
from shem.kernel.world import World
from shem.wire.gsb import Ping

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
Loop = Callable[[], asyncio.AbstractEventLoop]
CALL = Call(LOCAL_CALLER, "/public/exeunit/x/Exec", b"", no_reply=False)


async def read_to_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 16):
        pass
    writer.close()
    await writer.wait_closed()


def with_broken_link(path: Path, loop: Loop, story: Callable[[Link], Awaitable[None]]) -> None:
    """Tell a story about a link whose transport broke before anyone had read its end."""

    async def told() -> None:
        server = await asyncio.start_unix_server(read_to_the_end, path)
        async with server:
            reader, writer = await asyncio.open_unix_connection(path)
            link = Link(reader, writer, World())
            await link.send(Ping())
            lost = asyncio.Event()
            connection_lost = writer.transport.get_protocol().connection_lost

            def told_of_it(error: Exception | None) -> None:
                connection_lost(error)
                lost.set()

            writer.transport.get_protocol().connection_lost = told_of_it
            writer.transport.abort()
            await lost.wait()
            await story(link)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(told())


@pytest.mark.parametrize("loop", LOOPS)
def test_whoever_sends_into_a_broken_connection_is_told(short_dir: Path, loop: Loop) -> None:
    async def story(link: Link) -> None:
        with pytest.raises(GsbError, match="lost connection"):
            await link.send(Ping())

    with_broken_link(short_dir / "bus", loop, story)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_call_into_a_broken_connection_fails_in_words(short_dir: Path, loop: Loop) -> None:
    async def story(link: Link) -> None:
        async with aclosing(link.ask(CALL)) as replies:
            with pytest.raises(GsbError, match="lost connection"):
                await anext(replies)

    with_broken_link(short_dir / "bus", loop, story)


@pytest.mark.parametrize("loop", LOOPS)
def test_what_need_not_arrive_is_dropped(short_dir: Path, loop: Loop) -> None:
    async def story(link: Link) -> None:
        link.offer(Ping())

    with_broken_link(short_dir / "bus", loop, story)
