"""Performs one command at a time: hands it to the runtime and brings back its outcome.

Knows nothing of batches and of the journal. Whatever goes wrong is an outcome; the text of a
RuntimeFault is the requestor's.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from shem.exeunit.capture import CAPTURE_SIZE_MAX
from shem.exeunit.commands import CaptureMode, Command, Kind, TransferSpec
from shem.exeunit.events import EventLog
from shem.exeunit.feeds import OutputFeed, ProgressFeed
from shem.exeunit.results import Outcome
from shem.exeunit.runtimes.base import Runtime, RuntimeFault, Stopped, Volume
from shem.kernel.world import World

SIGN_REFUSED: Final = (
    "Local service error: signing not supported: this ExeUnit has no SGX enclave to sign with"
)
EVERYTHING: Final = CaptureMode(stream=True)
"""Of commands other than run, all output is kept and shown (§8.4)."""

FetchImage = Callable[[ProgressFeed], Awaitable[Path | None]]
MoveFiles = Callable[[TransferSpec, Sequence[Volume], ProgressFeed], Awaitable[None]]


class Performer:
    """Performs the commands of one activity; the core sees to it that they do not overlap."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        fetch_image: FetchImage,
        move_files: MoveFiles,
        world: World,
    ) -> None:
        self._runtime = runtime
        self._fetch_image = fetch_image
        self._move_files = move_files
        self._world = world
        self._cutting: asyncio.Timeout | None = None
        """The scope of a command that waits on the outside, to cut it short."""

    async def resume(self) -> None:
        """Load again what an earlier process had started; RuntimeFault or OSError when it fails."""
        await self._runtime.start(None, _nowhere, _nowhere)

    async def perform(self, live: EventLog, index: int, command: Command) -> Outcome:
        """Do one command to its end."""
        mode = EVERYTHING if command.kind is not Kind.RUN else None
        feeds = {
            name: OutputFeed(self._world, live, index, name, wanted or mode)
            for name, wanted in (("stdout", command.stdout), ("stderr", command.stderr))
        }
        progress = ProgressFeed(self._world, live, index, command.progress_s)
        problem, code = None, -1
        try:
            code = await self._do(command, feeds["stdout"], feeds["stderr"], progress)
            if code != 0:
                problem = f"ExeScript command exited with code {code}"
        except RuntimeFault as fault:
            problem = fault.message
        except OSError as error:
            problem = f"Local service error: {error}"
        return _outcome(code, problem, feeds)

    async def stop(self) -> None:
        """End what runs, services included; RuntimeFault when it does not end."""
        if self._cutting is not None:
            self._cutting.reschedule(asyncio.get_running_loop().time())
        await self._runtime.stop()

    async def _do(
        self, command: Command, stdout: OutputFeed, stderr: OutputFeed, progress: ProgressFeed
    ) -> int:
        match command.kind:
            case Kind.DEPLOY:
                async with self._cuttable():
                    image = await self._fetch_image(progress)
                    await self._runtime.deploy(image, command.deploy, stdout, stderr)
            case Kind.START:
                async with self._cuttable():
                    await self._runtime.start(command.args, stdout, stderr)
            case Kind.RUN:
                return await self._runtime.run(command, stdout, stderr)
            case Kind.TRANSFER:
                assert command.transfer is not None
                async with self._cuttable():
                    volumes = await self._runtime.volumes()
                    await self._move_files(command.transfer, volumes, progress)
            case Kind.SIGN:
                raise RuntimeFault(SIGN_REFUSED)
            case Kind.TERMINATE:
                raise AssertionError("the engine terminates: it knows whose turn it is")
        return 0

    @asynccontextmanager
    async def _cuttable(self) -> AsyncIterator[None]:
        """Let `stop` end the block."""
        try:
            async with asyncio.timeout(None) as self._cutting:
                yield
        except TimeoutError:
            raise Stopped("the command was stopped") from None
        finally:
            self._cutting = None


def _outcome(code: int, problem: str | None, feeds: dict[str, OutputFeed]) -> Outcome:
    for name, feed in feeds.items():
        feed.drain()
        if feed.capture.cut:
            cut = f"{name} was cut at {CAPTURE_SIZE_MAX} bytes"
            problem = f"{problem}; {cut}" if problem else cut
    stdout, stderr = (feed.capture.output() for feed in feeds.values())
    return Outcome(code == 0, problem, code, stdout, stderr)


def _nowhere(_data: bytes) -> None:
    """Take output that is nobody's."""
