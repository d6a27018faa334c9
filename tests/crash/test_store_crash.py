"""kill -9 at random moments and system calls: nothing acknowledged is lost, no unit is halved.

The child prints a unit's name only after the unit's block has ended. What it printed must be in the
store when it is opened again, and what is in the store must be there as whole units.
"""

import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from tests.crash.store_writer import ROWS_PER_UNIT

ROOT = Path(__file__).parents[2]
WRITER = Path(__file__).parent / "store_writer.py"
ROUNDS = 30
WORKERS = 6
DEADLINE_S = 60.0
UNITS_UNDER_STRACE = 6


def start(
    arguments: Sequence[object], *, prefix: Sequence[str] = (), env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*prefix, sys.executable, str(WRITER), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", **(env or {})},
    )


def read_for(child: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Return what the child prints until the time is over."""
    assert child.stdout is not None
    gathered = b""
    end = time.monotonic() + seconds
    while select.select([child.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
        chunk = os.read(child.stdout.fileno(), 65536)
        if not chunk:
            break
        gathered += chunk
    return gathered


def names(output: bytes) -> set[str]:
    """Return the acknowledged units; a line that was cut by the kill acknowledges nothing."""
    lines = output.decode().split("\n")[:-1]
    return {line for line in lines if line != "ready"}


def check(path: Path, acknowledged: set[str]) -> set[str]:
    """Open the store as the next start does, and compare; returns the units found."""
    connection = apsw.Connection(str(path))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = Counter(unit for (unit,) in connection.execute("SELECT digest FROM inbox"))
    posted = {key for (key,) in connection.execute("SELECT key FROM outbox")}
    connection.close()
    assert acknowledged - rows.keys() == set(), "acknowledged units were lost"
    assert {unit: n for unit, n in rows.items() if n != ROWS_PER_UNIT} == {}, "units were halved"
    assert posted == rows.keys(), "state and outbox were torn apart"
    return set(rows)


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "shem.db"
    acknowledged: set[str] = set()
    busy = 0
    for round_number in range(ROUNDS):
        child = start((path, WORKERS, round_number * 1_000_000))
        assert child.stdout is not None
        output = child.stdout.readline()
        output += read_for(child, random.random() * 0.05)
        child.send_signal(signal.SIGKILL)
        rest, errors = child.communicate()
        assert child.returncode == -signal.SIGKILL, errors.decode()
        new = names(output + rest)
        busy += bool(new)
        acknowledged |= new
        check(path, acknowledged)

    assert busy >= ROUNDS // 2, "the kills came too early to mean anything"
    assert len(acknowledged) > ROUNDS


def strace_works() -> bool:
    if shutil.which("strace") is None:
        return False
    probe = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return probe.returncode == 0


needs_strace = pytest.mark.skipif(not strace_works(), reason="strace is not usable here")


@needs_strace
@pytest.mark.parametrize("syscall", ["pwrite64", "fdatasync"])
def test_nothing_acknowledged_is_lost_when_killed_at_a_system_call(
    tmp_path: Path, syscall: str
) -> None:
    killed = 0
    for nth in range(1, 100, 9 if syscall == "pwrite64" else 2):
        path = tmp_path / f"{nth}.db"
        inject = f"inject={syscall}:signal=SIGKILL:when={nth}"
        prefix = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={syscall}", "-e", inject]
        child = start((path, 1, 0, UNITS_UNDER_STRACE), prefix=prefix)
        output, errors = child.communicate(timeout=DEADLINE_S)
        if child.returncode == 0:
            break
        assert child.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), errors.decode()
        killed += 1
        assert reopened(path) >= names(output)

    assert killed >= UNITS_UNDER_STRACE // 2


def reopened(path: Path) -> set[str]:
    """Let the store itself recover after the crash, then compare."""
    child = start((path, 1, 1_000, 1))
    output, errors = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 0, errors.decode()
    return check(path, names(output))


@needs_strace
def test_every_acknowledgement_comes_after_a_sync_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "strace.log"
    prefix = ["strace", "-f", "-qq", "-o", str(log), "-e", "trace=fdatasync,fsync,write"]
    child = start((tmp_path / "shem.db", 1, 0, 20), prefix=prefix)
    output, errors = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 0, errors.decode()
    assert len(names(output)) == 20

    synced = False
    acknowledgements = 0
    for line in log.read_text().splitlines():
        if re.search(r"\bf(data)?sync(\(| resumed)", line) and "= 0" in line:
            synced = True
        elif re.search(r'write\(1, "0-\d+\\n"', line):
            acknowledgements += 1
            assert synced, f"acknowledged before it was on the disk: {line}"
            synced = False
    assert acknowledgements == 20


def test_a_message_delivered_just_before_the_kill_is_delivered_again(tmp_path: Path) -> None:
    path = tmp_path / "shem.db"
    start((path, 1, 0, 3)).communicate(timeout=DEADLINE_S)
    killing = {"SHEM_FAILPOINTS": "outbox.delivered_before_settled=kill@2"}
    child = start((path, "deliver"), env=killing)
    first, _ = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == -signal.SIGKILL

    child = start((path, "deliver"))
    assert child.stdout is not None
    second = child.stdout.readline() + child.stdout.readline()
    child.kill()
    child.communicate()

    assert first == b"0-0\n0-1\n"
    assert second == b"0-1\n0-2\n"
