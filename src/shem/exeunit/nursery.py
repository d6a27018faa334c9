"""Where ExeUnits come from: a process that has everything imported, and forks for each activity.

`shem exe-unit nursery` reads an order a line on standard input, and says on standard output when it
is ready, who was born, and who has ended with which code. Rules:

* it has no threads, no event loop and no descriptor of its own that a child would keep;
* it ends with its agent, whose end of the pipe closes; its children go on, each in a session of its
  own. Without an agent it forks no more, even if orders are left: the next agent sees to them;
* a child has its work directory from its first moment: whoever looks for the process of an activity
  that nobody has written down knows it by that.
"""

import gc
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import msgspec
import psutil

from shem.kernel.failpoints import passing

LINE_SIZE_MAX: Final = 64 << 10
READ_SIZE: Final = 64 << 10
_INPUT: Final = 0
_OUTPUT: Final = 1
_ERRORS: Final = 2


class Order(msgspec.Struct, frozen=True):
    """What a nursery is told: begin this activity."""

    id: int
    """The answer has the same."""
    args: list[str]
    """All that follows `shem exe-unit`."""
    directory: str
    """The work directory."""
    log: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Everything is imported."""


class Born(msgspec.Struct, frozen=True, tag="born"):
    """The process of an order is there."""

    id: int
    pid: int
    started: float


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The process of an order could not be made; the nursery itself goes on."""

    id: int
    reason: str


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """A child has ended; the code is negative when it was a signal."""

    pid: int
    code: int


Word = Ready | Born | Failed | Ended


def encode_order(order: Order) -> bytes:
    return msgspec.json.encode(order) + b"\n"


def decode_word(line: bytes) -> Word:
    """Return what a nursery said; msgspec.DecodeError when it said nothing of the kind."""
    word: Word = msgspec.json.decode(line, type=Word)
    return word


def tend() -> list[str] | None:
    """Fork until the agent is gone: None. In a child, return its arguments at once."""
    gc.disable()  # a child that collects would copy what it only looks at
    _import_everything()
    gc.collect()
    gc.freeze()
    home = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    ended = _wake_when_children_end()
    _say(Ready())
    try:
        for order in _orders(ended):
            if _fork(order, home):
                return order.args
    except BrokenPipeError:
        pass  # the agent is gone
    return None


def _import_everything() -> None:
    """Import what an ExeUnit needs, also what others import when they first need it."""
    import concurrent.futures.thread
    import difflib

    import aiohttp

    import shem.exeunit.runtimes.plugin
    import shem.exeunit.runtimes.wasm
    import shem.exeunit.service
    from shem.kernel.version import shem_version

    shem_version()  # reads the package's files, once
    del aiohttp, concurrent, difflib, shem


def _wake_when_children_end() -> int:
    """Return a descriptor that can be read when a child has ended."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reading


def _orders(ended: int) -> Iterator[Order]:
    """Yield what is to be begun until the agent is gone, and report who has ended."""
    events, gone = select.poll(), select.poll()
    events.register(_INPUT, select.POLLIN)
    events.register(ended, select.POLLIN)
    gone.register(_INPUT, 0)
    pending = b""
    while True:
        ready = dict(events.poll())
        if ended in ready:
            os.read(ended, READ_SIZE)
            _report_ended()
        if _INPUT not in ready:
            continue
        *lines, pending = (pending + os.read(_INPUT, READ_SIZE)).split(b"\n")
        if len(pending) > LINE_SIZE_MAX:
            raise ValueError(f"an order has at most {LINE_SIZE_MAX} bytes")
        for line in lines:
            if gone.poll(0):
                break
            yield msgspec.json.decode(line, type=Order)
        if gone.poll(0):
            return


def _report_ended() -> None:
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = found
            _say(Ended(pid, os.waitstatus_to_exitcode(status)))


def _fork(order: Order, home: int) -> bool:
    """Make the process of an order: True in that process."""
    sys.stderr.flush()
    log, pid, failure = -1, -1, ""
    try:
        log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.chdir(order.directory)
        pid = os.fork()
    except OSError as error:
        failure = str(error)
    if pid == 0:
        _leave(log)
        return True
    os.fchdir(home)
    if log >= 0:
        os.close(log)
    if failure:
        _say(Failed(order.id, failure))
    else:
        passing("nursery.forked")
        _say(Born(order.id, pid, float(psutil.Process(pid).create_time())))
    return False


def _leave(log: int) -> None:
    """Keep nothing of the nursery but its memory."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for there, here in ((nothing, _INPUT), (log, _OUTPUT), (log, _ERRORS)):
        os.dup2(there, here)
    for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - numbers, not paths
        if descriptor > _ERRORS:
            with suppress(OSError):  # that of the listing is closed already
                os.close(descriptor)
    gc.enable()


def _say(word: Word) -> None:
    os.write(_OUTPUT, msgspec.json.encode(word) + b"\n")
