"""One transfer from end to end: fetch or pack, verify, deliver or unpack.

Everything passes through a file of our own beside the deployment: what arrives takes its place in
the volume whole and verified, or not at all, and what is sent does not change under way. The file
is gone afterwards, and what a killed ExeUnit left of it when the next one begins.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shem.exeunit.commands import Format, TransferSpec
from shem.exeunit.runtimes.base import RuntimeFault, Volume
from shem.exeunit.transfer.archive import Packing, pack, unpack
from shem.exeunit.transfer.budget import TRANSFER_SIZE_MAX, Budget
from shem.exeunit.transfer.fileset import Selection
from shem.exeunit.transfer.inside import find_inside
from shem.exeunit.transfer.location import Location, Scheme, parse_location
from shem.exeunit.transfer.mover import Mover, Progress, verify
from shem.kernel.world import Rng

DIRECTORY_NAME: Final = "transfer"
COPY_SIZE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Transfers:
    """The transfers of one activity."""

    work_dir: Path
    mover: Mover
    rng: Rng
    space_left: Callable[[], int | None]
    """Says how many bytes may still be stored; None for no limit."""

    async def perform(
        self, spec: TransferSpec, volumes: Sequence[Volume], progress: Progress
    ) -> None:
        """Do one transfer; RuntimeFault says why it could not be done."""
        source, target = _location(spec.source), _location(spec.target)
        is_inside = [side.scheme is Scheme.CONTAINER for side in (source, target)]
        if spec.format is not None and sum(is_inside) != 1:
            raise RuntimeFault("a format needs exactly one side inside the container")
        async with self._staging() as path:
            if source.scheme is not Scheme.CONTAINER:
                limit = self._size_max()
                await self.mover.fetch(source, path, size_max=limit, progress=progress)
            else:
                await self._take_out(source, path, spec, volumes)
            await asyncio.to_thread(_verify, path, target.digest)
            if target.scheme is not Scheme.CONTAINER:
                await self._send(target, path, progress)
            else:
                await self._put_in(target, path, spec.format, volumes)

    async def take_out(self, inside: str, volumes: Sequence[Volume], path: Path) -> None:
        """Make our file of what is inside: a file as it is, a directory packed."""
        source = Location(inside, Scheme.CONTAINER)
        kind = Format.TAR_GZ if _is_directory(source, volumes) else None
        await self._take_out(source, path, TransferSpec(inside, "", kind), volumes)

    @asynccontextmanager
    async def staged(self) -> AsyncIterator[Path]:
        """Give a place for one file that is about to be sent."""
        async with self._staging() as path:
            yield path

    async def _take_out(
        self, source: Location, path: Path, spec: TransferSpec, volumes: Sequence[Volume]
    ) -> None:
        """Make our file of a file or a directory of the deployment."""
        inside = find_inside(source.inside, volumes)
        budget = Budget(size_max=self._size_max())
        selection = Selection(spec.filesets)

        def work() -> None:
            if spec.format is None:
                _copy(inside.open_file(), path, budget)
            else:
                packing = Packing(spec.format, selection, spec.depth)
                with inside.directory(create=False) as directory:
                    pack(directory, packing, budget, path)

        await _in_thread(work, budget)
        await asyncio.to_thread(_verify, path, source.digest)

    async def _put_in(
        self, target: Location, path: Path, kind: Format | None, volumes: Sequence[Volume]
    ) -> None:
        """Give our file its place in the deployment, or unpack it there."""
        inside = find_inside(target.inside, volumes)
        budget = Budget(size_max=self._size_max())

        def work() -> None:
            if kind is None:
                inside.put(path)
            else:
                with inside.directory(create=True) as directory, path.open("rb") as archive:
                    unpack(archive, kind, directory, budget)

        await _in_thread(work, budget)

    async def _send(self, target: Location, path: Path, progress: Progress) -> None:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            await self.mover.bring(target, file, progress)
        finally:
            os.close(file)

    def _size_max(self) -> int:
        left = self.space_left()
        return TRANSFER_SIZE_MAX if left is None else max(0, min(left, TRANSFER_SIZE_MAX))

    @asynccontextmanager
    async def _staging(self) -> AsyncIterator[Path]:
        directory = self.work_dir / DIRECTORY_NAME
        await asyncio.to_thread(directory.mkdir, exist_ok=True)
        path = directory / self.rng.token(16).hex()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def clear_staging(work_dir: Path) -> None:
    """Remove what an ExeUnit that was killed left under way; blocks."""
    shutil.rmtree(work_dir / DIRECTORY_NAME, ignore_errors=True)


def _is_directory(source: Location, volumes: Sequence[Volume]) -> bool:
    try:
        with find_inside(source.inside, volumes).directory(create=False):
            return True
    except RuntimeFault:
        return False


def _location(text: str) -> Location:
    location = parse_location(text, Scheme.CONTAINER)
    if location.scheme is Scheme.FILE:
        raise RuntimeFault("transfers over file: are not allowed")
    return location


def _verify(path: Path, digest: bytes | None) -> None:
    if digest is not None:
        with path.open("rb") as file:
            verify(file.fileno(), digest)


def _copy(source: int, path: Path, budget: Budget) -> None:
    """Copy an open file, which is closed, into a new one."""
    with open(source, "rb") as read, path.open("xb") as written:
        while data := read.read(COPY_SIZE):
            budget.spend(len(data))
            written.write(data)


async def _in_thread(work: Callable[[], None], budget: Budget) -> None:
    """Run `work` in a thread; when it is no longer wanted, stop it and wait for its end."""
    running = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        budget.stopped = True
        with suppress(RuntimeFault, OSError):
            await running
        raise
