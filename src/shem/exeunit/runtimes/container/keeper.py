"""The keeper: the first process of a container, which starts its programs and reaps them.

Serves the ya-runtime-api on its standard streams (docs/protocol/activity-exeunit.md §9.3). One
thread and one loop; a supervisor that does not read makes it wait, and with it the programs. When
it ends, for whatever reason, the kernel ends every process of the container.
"""

import os
import selectors
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shem.exeunit.runtimes.container.deployment import Deployment
from shem.exeunit.runtimes.container.limits import over_limit
from shem.exeunit.runtimes.container.namespaces import SIGNALLED, sandbox
from shem.exeunit.runtimes.container.way_out import proxy_environment
from shem.exeunit.runtimes.protocol import (
    Answer,
    Event,
    Failure,
    Fault,
    FrameReader,
    Hello,
    Killed,
    KillProcess,
    ProcessStatus,
    Reply,
    Request,
    Running,
    RunProcess,
    Shutdown,
    Told,
    decode_request,
    encode_response,
)
from shem.wire.errors import WireError

VERSION: Final = "0.1.0"
CHUNK_SIZE: Final = 64 << 10
PROGRAMS_MAX: Final = 64
GRACE_S: Final = 1.5
"""From SIGTERM to the end, when the supervisor asks for it."""
WAKE_S: Final = 0.05
MEMORY_PERIOD_S: Final = 0.25
DRAIN_READS_MAX: Final = 64
"""Reads of a program's last output: as much as a pipe may hold, and no endless tale."""
_GO_FIRST: Final = '{ echo 1000 > /proc/self/oom_score_adj; } 2> /dev/null; exec "$@"'
"""When memory is short, programs go before the keeper: said by each of itself before it forks."""
START_ENTRYPOINT: Final = "start-entrypoint"
_ARGUMENTS: Final = 3
"""The descriptor on which bubblewrap reads its arguments, which nobody else has to see."""


@dataclass(slots=True)
class _Program:
    """A program of the container, by the process id of its sandbox."""

    pid: int
    pipes: dict[int, str]
    """Descriptors that are still open, and which stream each is."""
    is_told: bool = True
    """Whether the supervisor knows it; the entry point of the image is ours alone."""
    ended: bool = False


@dataclass(slots=True)
class Keeper:
    """The loop and what it knows."""

    work_dir: Path
    root_name: str
    deployment: Deployment
    memory_size: int | None = None
    """What all programs may hold together, where no control group sees to it."""
    proxy_port: int | None = None
    """Where a proxy leads out, on loopback; None: nothing does."""
    programs: dict[int, _Program] = field(default_factory=dict)
    _selector: selectors.DefaultSelector = field(default_factory=selectors.DefaultSelector)
    _reader: FrameReader = field(default_factory=FrameReader)
    _shutdown: int | None = None
    """The request to shut down, while it is being done."""
    _deadline_s: float = 0.0
    _watched_s: float = 0.0

    def serve(self, *, entrypoint: bool) -> None:
        """Run until the supervisor asks for the end or is gone."""
        waker, woken = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(waker, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        self._selector.register(0, selectors.EVENT_READ, self._read_requests)
        self._selector.register(waker, selectors.EVENT_READ, lambda: self._reap(waker))
        if entrypoint:
            self._start_entrypoint()
        while not self._is_over():
            for key, _ in self._selector.select(self._pause_s()):
                action: Callable[[], None] = key.data
                action()
            self._watch_memory()

    def _pause_s(self) -> float | None:
        """Return how long there may be nothing to do."""
        if self._shutdown is not None:
            return WAKE_S
        return MEMORY_PERIOD_S if self.memory_size is not None and self.programs else None

    def _watch_memory(self) -> None:
        now_s = time.monotonic()
        if self.memory_size is None or now_s - self._watched_s < MEMORY_PERIOD_S:
            return
        self._watched_s = now_s
        if (pid := over_limit(_others(), self.memory_size)) is not None:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _is_over(self) -> bool:
        if self._shutdown is None:
            return False
        if time.monotonic() < self._deadline_s and _others():
            return False
        self._answer(self._shutdown, Shutdown())
        return True

    # ---- what the supervisor says ---------------------------------------------------------------

    def _read_requests(self) -> None:
        data = os.read(0, CHUNK_SIZE)
        if not data:
            sys.exit(0)  # the supervisor is gone, and we with it
        try:
            for frame in self._reader.feed(data):
                self._take(decode_request(frame))
        except WireError as error:
            sys.exit(f"the supervisor sent what is no request: {error.message}")

    def _take(self, request: Request) -> None:
        match request.command:
            case Hello():
                self._answer(request.id, Hello(VERSION))
            case RunProcess(binary, args):
                self._run(request.id, binary, args[1:])
            case KillProcess(pid, number):
                self._answer(request.id, self._kill(pid, number))
            case Shutdown():
                self._shutdown = request.id
                self._deadline_s = time.monotonic() + GRACE_S
                self._ask_to_end()
            case None:
                self._answer(request.id, Failure(Fault.BAD_REQUEST, "not known to this runtime"))

    def _run(self, request_id: int, binary: str, args: Sequence[str]) -> None:
        if not binary.startswith("/"):
            message = f"{binary}: an entry point is an absolute path inside the image"
            self._answer(request_id, Failure(Fault.BAD_REQUEST, message))
        elif sum(program.is_told for program in self.programs.values()) >= PROGRAMS_MAX:
            message = f"at most {PROGRAMS_MAX} programs at a time"
            self._answer(request_id, Failure(Fault.BAD_REQUEST, message))
        else:
            try:
                program = self._spawn([binary, *args])
            except OSError as error:
                self._answer(request_id, Failure(Fault.INTERNAL, str(error)))
                return
            self._answer(request_id, Running(program.pid))

    def _kill(self, pid: int, number: int) -> Reply:
        program = self.programs.get(pid)
        if program is None or program.ended:
            return Failure(Fault.NOT_FOUND, f"there is no process {pid}")
        if number not in set(signal.Signals):
            return Failure(Fault.BAD_REQUEST, f"there is no signal {number}")
        targets = _children(pid) if number != signal.SIGKILL else [pid]
        for target in targets:
            with suppress(OSError):
                os.kill(target, number)
        return Killed()

    def _ask_to_end(self) -> None:
        """SIGTERM to all but the sandboxes, whose end would be their programs' immediate one."""
        for pid in _others():
            if pid not in self.programs:
                with suppress(OSError):
                    os.kill(pid, signal.SIGTERM)

    # ---- programs -------------------------------------------------------------------------------

    def _start_entrypoint(self) -> None:
        command = self.deployment.config.entrypoint
        if not command:
            sys.exit("the image has no entry point to start")
        self._spawn(command).is_told = False

    @property
    def _environment(self) -> dict[str, str]:
        return {} if self.proxy_port is None else proxy_environment(self.proxy_port)

    def _spawn(self, command: Sequence[str]) -> _Program:
        """Start a program in a sandbox of its own."""
        words, command = sandbox(
            self.work_dir, self.root_name, self.deployment, command, self._environment
        )
        arguments = os.memfd_create("arguments")
        os.write(arguments, b"".join(word.encode() + b"\0" for word in words))
        os.lseek(arguments, 0, os.SEEK_SET)
        outputs = {name: os.pipe() for name in ("stdout", "stderr")}
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, outputs["stdout"][1], 1),
            (os.POSIX_SPAWN_DUP2, outputs["stderr"][1], 2),
            (os.POSIX_SPAWN_DUP2, arguments, _ARGUMENTS),
        ]
        try:
            pid = os.posix_spawn(
                _SHELL,
                [
                    _SHELL,
                    "-c",
                    _GO_FIRST,
                    _SHELL,
                    _BWRAP,
                    "--args",
                    str(_ARGUMENTS),
                    "--",
                    *command,
                ],
                {},
                file_actions=actions,
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )
        finally:
            os.close(arguments)
            for _, writing in outputs.values():
                os.close(writing)
        program = _Program(pid, {reading: name for name, (reading, _) in outputs.items()})
        self.programs[pid] = program
        for descriptor in program.pipes:
            os.set_blocking(descriptor, False)
            self._selector.register(
                descriptor, selectors.EVENT_READ, self._reading(program, descriptor)
            )
        return program

    def _reading(self, program: _Program, descriptor: int) -> Callable[[], None]:
        def read() -> None:
            if descriptor in program.pipes:  # else closed by what was done just before
                self._read_output(program, descriptor)

        return read

    def _read_output(self, program: _Program, descriptor: int) -> bool:
        """Pass on what a program printed; False when there is nothing more for now."""
        try:
            data = os.read(descriptor, CHUNK_SIZE)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(descriptor)
            os.close(descriptor)
            del program.pipes[descriptor]
            return False
        if program.is_told and not program.ended:
            is_error = program.pipes[descriptor] == "stderr"
            stdout, stderr = (b"", data) if is_error else (data, b"")
            self._tell(ProcessStatus(program.pid, running=True, stdout=stdout, stderr=stderr))
        return True

    def _reap(self, waker: int) -> None:
        """Take the ends of processes, ours and those that their parents have left to us."""
        with suppress(BlockingIOError):
            os.read(waker, CHUNK_SIZE)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (program := self.programs.pop(pid, None)) is not None:
                self._end(program, os.waitstatus_to_exitcode(status))

    def _end(self, program: _Program, code: int) -> None:
        """Tell the end of a program; what it left behind may print on, and nobody listens."""
        for descriptor in tuple(program.pipes):
            for _ in range(DRAIN_READS_MAX):
                if not self._read_output(program, descriptor):
                    break
        program.ended = True
        if program.is_told:
            code = code if code >= 0 else SIGNALLED - code
            self._tell(ProcessStatus(program.pid, running=False, return_code=code))
        else:
            sys.stderr.write(f"the entry point of the image has ended with code {code}\n")
            sys.stderr.flush()

    def _answer(self, request_id: int, reply: Reply) -> None:
        _write(encode_response(Answer(request_id, reply)))

    def _tell(self, event: Event) -> None:
        _write(encode_response(Told(event)))


_SHELL: Final = "/bin/sh"
_BWRAP: Final = shutil.which("bwrap") or "/usr/bin/bwrap"


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _others() -> list[int]:
    """Return the processes of the container but this one."""
    names = (entry.name for entry in os.scandir("/proc"))
    return [int(name) for name in names if name.isdigit() and name != "1"]


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
