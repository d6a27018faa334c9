"""The way from this machine into a host of the userland internet: TCP to its loopback device."""

import asyncio
import contextlib
from typing import Final, Self

from shem.devnet.internet import Host
from shem.kernel.writing import put_all

READ_SIZE: Final = 1 << 16


class Door:
    """Carries TCP connections to the same port of the loopback device on a host."""

    def __init__(self, host: Host, port: int) -> None:
        self._host = host
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._come_in, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _come_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside = self._host.space.open_tcp()
        try:
            await asyncio.get_running_loop().sock_connect(inside, ("127.0.0.1", self._port))
            back, forth = await asyncio.open_connection(sock=inside)
        except OSError:
            inside.close()
            writer.transport.abort()
            return
        ways = [asyncio.create_task(_copy(reader, forth)), asyncio.create_task(_copy(back, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            writer.transport.abort()
            forth.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(READ_SIZE):
            await put_all(writer, data)
