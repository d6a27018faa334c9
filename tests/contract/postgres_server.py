"""A throw-away PostgreSQL server of Debian's packages, on a unix socket of its own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = Path("/usr/lib/postgresql")
START_TIMEOUT_S = 60.0


def find_binaries() -> Path | None:
    """Return the newest installed server's `bin`, or None."""
    found = sorted(PACKAGES.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def running_postgres(binaries: Path) -> Iterator[Path]:
    """Start a server; yields the directory of its socket."""
    folder = Path(tempfile.mkdtemp(prefix="shem-pg-"))
    try:
        prefix = _as_other_user(folder)
        data, log = folder / "data", folder / "log"
        _run([*prefix, str(binaries / "initdb"), "-D", str(data), *_INITDB], folder)
        with log.open("wb") as output:
            server = subprocess.Popen(
                [*prefix, str(binaries / "postgres"), "-D", str(data), "-k", str(folder), *_SERVER],
                stdout=output,
                stderr=output,
                cwd=folder,
            )
        try:
            _wait_until_ready(server, binaries, folder, log)
            yield folder
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_INITDB = ["-U", "shem", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
_SERVER = ["-c", "listen_addresses=", "-c", "max_connections=60"]


def _as_other_user(folder: Path) -> list[str]:
    """Return the command prefix that drops root, which the server refuses to run as."""
    if os.geteuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, user.pw_uid, user.pw_gid)
        ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        return ["setpriv", *ids, "--pdeathsig=TERM", "--"]
    raise RuntimeError("there is no user to run PostgreSQL as")


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")


def _wait_until_ready(
    server: subprocess.Popen[bytes], binaries: Path, folder: Path, log: Path
) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    ready = [str(binaries / "pg_isready"), "-h", str(folder), "-q"]
    while subprocess.run(ready, check=False).returncode != 0:
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL did not start: {log.read_text()}")
        time.sleep(0.05)
