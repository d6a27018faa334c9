"""The simulation's own processes: what they had is closed when they die, wherever that is."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.sim.process import Process, run_processes

POINTS = 8


@pytest.mark.parametrize("point", range(1, POINTS))
def test_a_process_that_dies_as_it_begins_to_listen_gives_its_socket_up(
    tmp_path: Path, point: int
) -> None:
    async def story() -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "socket"))

        async def serve() -> None:
            await asyncio.sleep(0)
            server = await asyncio.start_server(lambda _r, _w: None, sock=listener)
            await server.serve_forever()

        process = Process("listener")
        process.dies_at = point
        task = process.start(serve())
        while process.alive and not task.done():
            await asyncio.sleep(1)
            process.at_point()
        await process.ended.wait()

        assert asyncio.get_running_loop().time() < 2 * POINTS
        begun = point > 2
        assert (listener.fileno() == -1) is begun
        listener.close()

    run_processes(story())
