"""The data directory: private, one process's, never a yagna's."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from shem.kernel.errors import StorageFault, UsageError
from shem.store.datadir import LOCK_FILE, AlreadyRunning, hold_datadir


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_directory_is_private_and_locked(tmp_path: Path) -> None:
    path = tmp_path / "a" / "node"
    with hold_datadir(path) as held:
        assert held == path
        assert mode(path) == 0o700
        assert mode(path / LOCK_FILE) == 0o600
        assert (path / LOCK_FILE).read_text() == str(os.getpid())


def test_a_second_holder_is_told_who_runs(tmp_path: Path) -> None:
    with (
        hold_datadir(tmp_path),
        pytest.raises(AlreadyRunning, match=f"already running.*{os.getpid()}"),
        hold_datadir(tmp_path),
    ):
        pytest.fail("held twice")

    with hold_datadir(tmp_path):
        pass


def test_a_killed_holder_leaves_the_directory_free(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from shem.store.datadir import hold_datadir\n"
        "with hold_datadir(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(AlreadyRunning), hold_datadir(tmp_path):
        pytest.fail("held twice")

    holder.send_signal(signal.SIGKILL)
    holder.communicate()

    with hold_datadir(tmp_path):
        pass


def test_the_data_directory_of_a_yagna_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "yagna.db").write_bytes(b"theirs")

    with pytest.raises(UsageError, match="yagna"), hold_datadir(tmp_path):
        pytest.fail("held a yagna's directory")

    assert [path.name for path in tmp_path.iterdir()] == ["yagna.db"]


def test_an_open_empty_directory_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "node"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    with hold_datadir(path):
        assert mode(path) == 0o700
    path.chmod(0o777)
    with hold_datadir(path):
        assert mode(path) == 0o700


def test_an_open_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "home"
    path.mkdir()
    path.chmod(0o755)
    (path / "letter").touch()

    with pytest.raises(UsageError, match="chmod 700"), hold_datadir(path):
        pytest.fail("held somebody's directory")

    assert mode(path) == 0o755
    assert [p.name for p in path.iterdir()] == ["letter"]


def test_a_file_in_the_way_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()

    with pytest.raises(UsageError, match="not a directory"), hold_datadir(path):
        pytest.fail("held a file")
    with pytest.raises(StorageFault), hold_datadir(path / "below"):
        pytest.fail("held nothing")
