"""How the proxy comes to listen where there is no network.

The keeper of a container makes a listening socket on the container's own loopback, and hands it to
the ExeUnit over a socket in the work directory. A socket stays where it was made: programs connect
to it inside; what the ExeUnit opens for them is opened outside. Nothing else joins the two.
"""

import asyncio
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from shem.exeunit.outbound.grants import Grants
from shem.exeunit.outbound.heads import HEAD_SIZE_MAX
from shem.exeunit.outbound.proxy import Proxy
from shem.exeunit.runtimes.base import RuntimeFault
from shem.kernel.world import World

SOCKET_NAME: Final = "outbound.sock"
HANDOVER_TIMEOUT_S: Final = 10.0
COUNTER: Final = "golem.usage.outbound_gib"
"""Both ways together; reported where an agreement's usage vector names it."""
_GIB: Final = 1 << 30

log = structlog.get_logger()


class Gateway:
    """The way out of one activity's container, from start to stop."""

    def __init__(self, grants: Grants, work_dir: Path, world: World) -> None:
        self._proxy = Proxy(grants, world.clock.monotonic)
        self._work_dir = work_dir
        self._handover: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def options(self) -> list[str]:
        """Return what the runtime is told, to hand a socket over."""
        return ["--outbound-socket", SOCKET_NAME]

    def counters(self) -> Mapping[str, float]:
        return {COUNTER: self._proxy.traffic.size / _GIB}

    async def prepare(self) -> None:
        """Wait for a container that will be started next."""
        await self.close()
        await asyncio.to_thread((self._work_dir / SOCKET_NAME).unlink, missing_ok=True)
        handover = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        directory = os.open(self._work_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            handover.bind(f"/proc/self/fd/{directory}/{SOCKET_NAME}")  # a path can be too long
            handover.listen(1)
        finally:
            os.close(directory)
        self._handover = handover

    async def open(self) -> None:
        """Serve the container that has been started; RuntimeFault when it hands nothing over."""
        assert self._handover is not None
        try:
            async with asyncio.timeout(HANDOVER_TIMEOUT_S):
                listener = await _taken(self._handover)
        except (TimeoutError, OSError) as error:
            raise RuntimeFault(f"the container has no way out: {error!r}") from error
        finally:
            self._handover.close()
            self._handover = None
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=HEAD_SIZE_MAX)
        log.info("outbound.open", places=len(self._proxy.grants.endpoints))

    async def close(self) -> None:
        """Take no more connections, and end those that are open."""
        if self._handover is not None:
            self._handover.close()
            self._handover = None
        if self._server is not None:
            self._server.close()
            self._server = None
            for connection in self._connections:
                connection.cancel()
            traffic = self._proxy.traffic
            log.info(
                "outbound.closed",
                connections=traffic.connections,
                refused=traffic.refused,
                sent=traffic.sent,
                received=traffic.received,
            )

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._proxy.serve(reader, writer))
        self._connections.add(serving)
        serving.add_done_callback(self._connections.discard)


async def _taken(handover: socket.socket) -> socket.socket:
    """Return the one socket that is sent to us."""
    loop = asyncio.get_running_loop()
    connection, _ = await loop.sock_accept(handover)
    with connection:
        readable = asyncio.Event()
        loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(connection)
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    if not descriptors:
        raise OSError("no socket came")
    listener = socket.socket(fileno=descriptors[0])
    listener.setblocking(False)
    return listener
