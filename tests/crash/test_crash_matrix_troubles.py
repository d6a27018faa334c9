"""The fault matrix, its rows that kill nobody: processes that stand, clocks that jump, full disks.

As in `test_crash_matrix`, on real processes: a deal is brought to a phase, the trouble comes and
goes, and the deal is brought to its end. A clock is set by `tests.crash.set_clock`; writes fail by
strace's injection.
"""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import pytest_asyncio

import shem
from shem.devnet.compose import Devnet
from tests.crash.matrix_deal import WITHIN_S, Deal, reach, signed
from tests.crash.set_clock import clock_environment, set_clock
from tests.crash.syscalls import held, whole, why_not
from tests.crash.test_crash_matrix import brought_to_its_end, golem_at

pytestmark = pytest.mark.asyncio(loop_scope="module")

STOOD_S = 30.0 if os.environ.get("SHEM_CRASH_POINTS") == "all" else 12.0
"""Longer than an ExeUnit may be silent (10 s)."""
FULL_S = 3.0
FAILING = {"ENOSPC": "pwrite64", "EIO": "fsync,fdatasync"}
"""A disk that is full, and one that does not keep what it was given."""
DISK_CELLS = (
    *(("ENOSPC", phase) for phase in ("negotiating", "signed", "running", "ready")),
    *(("EIO", phase) for phase in ("running", "ready")),
)
DAEMONS = ("requestor", "provider", "agent")
CLOCKS = (3_600.0, -3_600.0)
"""Seconds by which a wall clock is set, while a batch runs."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net() -> AsyncIterator[Devnet]:
    """One devnet for all cells, whose clocks can be set."""
    short = Path(tempfile.mkdtemp(prefix="shem-crash-", dir="/tmp"))
    async with Devnet(short, env=clock_environment(short)) as devnet:
        yield devnet
    assert devnet.killed_at_end == []
    shutil.rmtree(short, ignore_errors=True)


def processes(net: Devnet, *names: str) -> list[int]:
    """Return process ids; `ExeUnit` are all of them."""
    children = net.processes()
    found = [children[name].pid for name in names if name in children]
    return found + (net.exe_units() if "ExeUnit" in names else [])


# ---- processes that stand --------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [("requestor",), ("provider",), ("provider", "agent", "ExeUnit")],
    ids=["requestor daemon stands", "provider daemon stands", "provider's machine stands"],
)
async def test_a_batch_runs_while_processes_stand(net: Devnet, names: tuple[str, ...]) -> None:
    async with golem_at(net) as golem:
        deal = await reach(golem, net.package, "running", f"stands-{len(names)}-{names[0]}")
        with standing(processes(net, *names)):
            await asyncio.sleep(STOOD_S)
    async with golem_at(net) as golem:
        await brought_to_its_end(golem, deal, is_cut=False)


@contextmanager
def standing(pids: list[int]) -> Iterator[None]:
    """Stop processes while the block lasts."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


# ---- clocks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["requestor", "provider"])
async def test_a_batch_runs_while_a_clock_is_set(net: Devnet, whose: str) -> None:
    """An hour on, then back, then right again: no running work ends early."""
    async with golem_at(net) as golem:
        deal = await reach(golem, net.package, "running", f"clock-{whose}")
        try:
            for seconds in CLOCKS:
                set_clock(net.directory, whose, seconds)
                await asyncio.sleep(2.5)
        finally:
            set_clock(net.directory, whose, 0.0)
        await brought_to_its_end(golem, deal, is_cut=False)


# ---- disks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "phase"), DISK_CELLS)
async def test_a_deal_goes_on_when_the_disks_work_again(
    net: Devnet, tmp_path: Path, error: str, phase: str
) -> None:
    """Every write of every process fails for a while; nothing that was promised before is lost."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    tag = f"{error}-{phase}"
    async with golem_at(net) as golem:
        if phase == "negotiating":
            deal = Deal(tag, await negotiated_all_the_same(net, golem, tmp_path, error))
        else:
            deal = await reach(golem, net.package, phase, tag)
            async with failing_disks(net, tmp_path, error, *DAEMONS, "ExeUnit"):
                await asyncio.sleep(FULL_S)
    async with golem_at(net) as golem:  # a full disk is full for the payload as well
        await brought_to_its_end(golem, deal, is_cut=False, may_fail=phase == "running")


async def negotiated_all_the_same(
    net: Devnet, golem: shem.Golem, directory: Path, error: str
) -> str:
    """Negotiate while nothing can be written: that fails and says so; then it works."""
    async with failing_disks(net, directory, error, *DAEMONS):
        with pytest.raises(shem.GolemError) as told:
            async with asyncio.timeout(WITHIN_S):
                await signed(golem, net.package)
    assert told.value.code in {"storage-full", "storage"}, told.value
    return await signed(golem, net.package)


@asynccontextmanager
async def failing_disks(
    net: Devnet, directory: Path, error: str, *names: str
) -> AsyncIterator[None]:
    """Have the writes of these processes fail while the block lasts."""
    calls = FAILING[error]
    inject = f"inject={calls}:error={error}"
    async with AsyncExitStack() as stack:
        for pid in processes(net, *names):
            log = directory / f"{pid}.strace"
            await stack.enter_async_context(
                held(whole(pid), log, "-e", f"trace={calls}", "-e", inject)
            )
        yield
