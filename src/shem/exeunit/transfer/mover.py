"""Files over any network, with patience: an attempt that fails in passing is made again.

HTTP (docs/protocol/activity-exeunit.md §10.1) has two more attempts after one that got nowhere;
an attempt that got further starts the count anew. GFTP repeats its chunks by itself (`shem.gftp`).
What is fetched is compared with its hash.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from shem.bus.types import GsbError
from shem.exeunit.runtimes.base import RuntimeFault
from shem.exeunit.transfer.location import Location, Scheme, new_digest
from shem.exeunit.transfer.web import Download, WebFault, upload
from shem.gftp.patience import Patience
from shem.gftp.protocol import GftpFault, GftpUrl, parse_url
from shem.gftp.transport import Asker, Transport
from shem.kernel.errors import ShemError, TimedOut, Unreachable, UsageError
from shem.kernel.world import World

RETRY_PAUSES_S: Final = (2.0, 4.0)
READ_SIZE: Final = 1 << 20

Progress = Callable[[int, int | None], None]

log = structlog.get_logger()


class Mover:
    """Moves files between this machine and the network."""

    def __init__(self, bus: Asker, world: World) -> None:
        self._gftp = Transport(bus, lambda: Patience(world))
        self._clock = world.clock

    async def fetch(
        self, source: Location, path: Path, *, size_max: int, progress: Progress
    ) -> None:
        """Make a new file with what is at a location; RuntimeFault when that cannot be done."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            if source.scheme is Scheme.GFTP:
                with _explained():
                    url = _gftp_url(source)
                    await self._gftp.fetch(url, file, size_max=size_max, progress=progress)
            else:
                download = Download(source.url, file, size_max, progress)
                await self._attempts(download.attempt, lambda: download.done)
            await asyncio.to_thread(verify, file, source.digest)
        finally:
            os.close(file)

    async def bring(self, target: Location, file: int, progress: Progress) -> None:
        """Send an open file to a location."""
        size = os.fstat(file).st_size
        if target.scheme is Scheme.GFTP:
            with _explained():
                await self._gftp.bring(_gftp_url(target), file, size, progress=progress)
            return
        await self._attempts(lambda: upload(target.url, file, size, progress), lambda: 0)

    async def _attempts(self, act: Callable[[], Awaitable[None]], done: Callable[[], int]) -> None:
        """Repeat an act that fails in passing, until it gets nowhere several times in a row."""
        failed, reached = 0, done()
        while True:
            try:
                await act()
            except WebFault as fault:
                failed = 0 if done() > reached else failed
                reached = done()
                if failed == len(RETRY_PAUSES_S):
                    raise RuntimeFault(f"Transfer error: {fault}") from fault
                log.info("transfer.interrupted", reason=str(fault), done=reached)
                await self._clock.sleep(RETRY_PAUSES_S[failed])
                failed += 1
            else:
                return


def verify(file: int, digest: bytes | None) -> None:
    """Compare an open file with the hash of its location; blocks."""
    if digest is None:
        return
    found = new_digest(len(digest))
    offset = 0
    while data := os.pread(file, READ_SIZE, offset):
        found.update(data)
        offset += len(data)
    if found.digest() != digest:
        raise RuntimeFault(
            "Incorrect hash provided or downloaded image is corrupted: calculated hash "
            f"{found.hexdigest()} differs from the expected one {digest.hex()}"
        )


def _gftp_url(location: Location) -> GftpUrl:
    return parse_url(location.url)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (GftpFault, UsageError, GsbError, Unreachable, TimedOut) as error:
        raise _as_fault(error) from error


def _as_fault(error: ShemError) -> RuntimeFault:
    return RuntimeFault(f"Transfer error: {error.message}")
