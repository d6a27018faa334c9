"""strace on a running process: its durable system calls counted, or its end at one of them.

What a node or an agent promises is written by one thread, its store's writer. strace takes hold of
this thread alone (`writer_of`), so that the rest of the process runs at full speed; of an ExeUnit,
which writes in any thread, it takes all (`whole`). It counts for each thread, from the moment at
which it took hold. A call at which the process is killed is not made any more.
"""

import asyncio
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

DURABLE = ("pwrite64", "fdatasync", "fsync", "ftruncate", "unlink", "rename")
"""What brings something to the disk, or makes it stay there."""
TOLD = ("write", "sendto")
"""A writer's word to its event loop, an ExeUnit's to the bus: it is on disk, nobody was told."""
WATCHED = (*DURABLE, *TOLD)
HELD_WITHIN_S = 10.0
LEFT_WITHIN_S = 3.0
"""Now and then strace hangs on a process that ends just then."""


def why_not() -> str | None:
    """Return why strace cannot take hold of a running process here; None when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            with subprocess.Popen(
                ["strace", "-p", str(sleeper.pid)], stderr=subprocess.PIPE, text=True
            ) as strace:
                assert strace.stderr is not None
                said = strace.stderr.readline().strip()
                strace.terminate()
        finally:
            sleeper.kill()
    return None if said.endswith("attached") else f"ptrace is not permitted here: {said}"


Hold = tuple[str, ...]
"""What strace takes hold of, as its options."""


def whole(pid: int) -> Hold:
    """Return all threads of a process, those included that it will begin."""
    return ("-f", "-p", str(pid))


def writer_of(pid: int) -> Hold:
    """Return the store's writer: of the threads beside the main one, that which writes most."""
    written: dict[int, int] = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        found = re.search(r"^syscw: (\d+)$", (folder / "io").read_text(), re.MULTILINE)
        if found is not None and folder.name != str(pid):
            written[int(folder.name)] = int(found[1])
    return ("-p", str(max(written, key=lambda thread: written[thread])))


@dataclass(frozen=True, slots=True)
class Watch:
    """What strace has written down so far."""

    log: Path

    def calls(self) -> Counter[str]:
        """Return how many calls of each kind were made, at most, by one thread."""
        text = self.log.read_text(errors="replace")
        made = Counter(re.findall(r"^(\d+ +)?(\w+)\(", text, re.MULTILINE))
        most: Counter[str] = Counter()
        for (_, call), count in made.items():
            most[call] = max(most[call], count)
        return most


@asynccontextmanager
async def counting(hold: Hold, log: Path) -> AsyncIterator[Watch]:
    """Write down the watched calls while the block runs."""
    async with held(hold, log, "-e", f"trace={','.join(WATCHED)}") as watch:
        yield watch


@asynccontextmanager
async def killing(hold: Hold, log: Path, call: str, nth: int) -> AsyncIterator[Watch]:
    """Kill the process as a thread is about to make its nth call of a kind from now on."""
    inject = f"inject={call}:signal=SIGKILL:when={nth}"
    async with held(hold, log, "-e", f"trace={call}", "-e", inject) as watch:
        yield watch


@asynccontextmanager
async def held(hold: Hold, log: Path, *options: str) -> AsyncIterator[Watch]:
    """Let strace hold a process while the block runs."""
    strace = await asyncio.create_subprocess_exec(
        "strace", "-o", str(log), *options, *hold, stderr=subprocess.PIPE
    )
    try:
        assert strace.stderr is not None
        async with asyncio.timeout(HELD_WITHIN_S):
            said = (await strace.stderr.readline()).decode(errors="replace")
        assert " attached" in said, said
        yield Watch(log)
    finally:
        await _let_go(strace)


async def _let_go(strace: asyncio.subprocess.Process) -> None:
    """Ask strace to leave its process alone; one that does not is made to."""
    if strace.returncode is None:
        strace.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(LEFT_WITHIN_S):
            await strace.communicate()
    except TimeoutError:
        strace.kill()
        await strace.communicate()
