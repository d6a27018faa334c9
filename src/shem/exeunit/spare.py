"""A spare ExeUnit: everything is imported, and it waits for its command line on standard input.

`shem exe-unit spare` says `ready`, reads one line of JSON and becomes the process of that activity,
in its work directory, with its log. When the input ends before, so does the spare: it never
outlives the agent that started it.
"""

import os
import sys
from typing import BinaryIO, Final

import msgspec

READY: Final = b"ready\n"
LINE_SIZE_MAX: Final = 64 << 10


class Work(msgspec.Struct, frozen=True):
    """What a spare is told."""

    args: list[str]
    """All that follows `shem exe-unit`."""
    directory: str
    """The work directory: whoever looks for the activity's process knows it by that."""
    log: str


def encode_work(work: Work) -> bytes:
    return msgspec.json.encode(work) + b"\n"


def wait_for_work(lines: BinaryIO) -> list[str] | None:
    """Return the arguments of the activity that comes; None when none will."""
    _import_everything()
    os.write(sys.stdout.fileno(), READY)
    line = lines.readline(LINE_SIZE_MAX)
    if not line.endswith(b"\n"):
        return None
    work = msgspec.json.decode(line, type=Work)
    os.chdir(work.directory)
    _redirect(work.log)
    return work.args


def _import_everything() -> None:
    import aiohttp

    import shem.exeunit.runtimes.plugin
    import shem.exeunit.runtimes.wasm
    import shem.exeunit.service

    del aiohttp, shem


def _redirect(log: str) -> None:
    """Read nothing more, and say everything to the log."""
    sys.stdout.flush()
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_RDONLY)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for there, here in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(there, here)
    os.close(nothing)
    os.close(written)
