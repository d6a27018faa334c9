"""The supervisor's end of the ya-runtime-api: one service process and what it runs.

Output that comes before the answer which names its process is held for it; output of processes that
nobody knows goes to the `start` command (docs/protocol/activity-exeunit.md §9.3). When the service
ends, everything that waits for it fails.
"""

import asyncio
import math
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from shem.exeunit.runtimes.base import RuntimeFault, Sink
from shem.exeunit.runtimes.children import CHUNK_SIZE, Child
from shem.exeunit.runtimes.protocol import (
    VERSION,
    Answer,
    Command,
    Counter,
    Failure,
    FrameReader,
    Hello,
    KillProcess,
    ProcessStatus,
    Reply,
    Request,
    Running,
    RunProcess,
    Shutdown,
    Told,
    decode_response,
    encode_request,
)
from shem.kernel.writing import put_all
from shem.wire.errors import WireError

FIRST_REQUEST_ID: Final = 2
EARLY_MAX: Final = 256
"""Events that are held for processes whose answer has not come yet."""
COUNTERS_MAX: Final = 64
ERROR_TEXT_MAX: Final = 500

log = structlog.get_logger()


def _future() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True)
class _Program:
    """A program that runs in the service."""

    stdout: Sink
    stderr: Sink
    ended: "asyncio.Future[int]" = field(default_factory=_future)

    def end(self, code: int) -> None:
        if not self.ended.done():
            self.ended.set_result(code)


@dataclass(slots=True)
class _Asked:
    """A request without its answer; a run's program is known by its answer."""

    program: _Program | None
    answer: "asyncio.Future[Reply]" = field(default_factory=_future)


class ServiceLink:
    """Talks to one service; `serve` has to run for as long as anything is wanted of it."""

    def __init__(self, child: Child, stdout: Sink, stderr: Sink) -> None:
        self.child = child
        self.counters: dict[str, float] = {}
        self.ended: str | None = None
        """Why nothing more can be asked; None while the service is there."""
        self._start: tuple[Sink, Sink] | None = (stdout, stderr)
        self._next_id = FIRST_REQUEST_ID
        self._asked: dict[int, _Asked] = {}
        self._programs: dict[int, _Program] = {}
        self._early: list[ProcessStatus] = []

    async def serve(self) -> None:
        """Take what the service says until it ends."""
        reader = FrameReader()
        reason = "it closed its output"
        try:
            while data := await self.child.stdout.read(CHUNK_SIZE):
                for frame in reader.feed(data):
                    self._take(decode_response(frame))
        except WireError as error:
            reason = error.message
        finally:
            self._fail(f"the runtime is gone: {reason}")

    async def hello(self) -> None:
        """Greet the service: it is up when it has answered."""
        reply = await self._ask(Hello(VERSION))
        if not isinstance(reply, Hello):
            raise RuntimeFault(f"the runtime answers a greeting with {reply!r}")

    async def run(self, binary: str, args: tuple[str, ...], stdout: Sink, stderr: Sink) -> int:
        """Run a program to its end and return its exit code."""
        program = _Program(stdout, stderr)
        reply = await self._ask(RunProcess(binary, args), program)
        if not isinstance(reply, Running):
            raise RuntimeFault(f"the runtime answers a run with {reply!r}")
        return await program.ended

    async def kill(self, pid: int, number: int) -> None:
        """Send a signal to a program."""
        await self._ask(KillProcess(pid, number))

    async def shut_down(self) -> None:
        """Ask the service to end."""
        await self._ask(Shutdown())

    def running(self) -> list[int]:
        """Return the ids of the programs that run."""
        return list(self._programs)

    def started(self) -> None:
        """The start command has ended: what unknown processes print is nobody's."""
        self._start = None

    async def _ask(self, command: Command, program: _Program | None = None) -> Reply:
        if self.ended is not None:
            raise RuntimeFault(self.ended)
        request_id, self._next_id = self._next_id, self._next_id + 1
        asked = _Asked(program)
        self._asked[request_id] = asked
        try:
            await put_all(self.child.stdin, encode_request(Request(request_id, command)))
            reply = await asked.answer
        except OSError as error:
            raise RuntimeFault(f"the runtime is gone: {error}") from error
        finally:
            self._asked.pop(request_id, None)
        if isinstance(reply, Failure):
            raise RuntimeFault(f"Runtime error: {reply.message[:ERROR_TEXT_MAX]}")
        return reply

    def _take(self, response: Answer | Told) -> None:
        match response:
            case Answer(request_id, reply):
                self._take_answer(request_id, reply)
            case Told(ProcessStatus() as status):
                self._take_status(status)
            case Told(Counter(name, value)):
                if math.isfinite(value) and (
                    name in self.counters or len(self.counters) < COUNTERS_MAX
                ):
                    self.counters[name] = value
            case _:
                log.debug("runtime.said_something_unknown")

    def _take_answer(self, request_id: int, reply: Reply | None) -> None:
        asked = self._asked.get(request_id)
        if asked is None or asked.answer.done():
            log.warning("runtime.answered_unasked", request=request_id)
        elif reply is None:
            asked.answer.set_result(Failure(0, "an answer of an unknown kind"))
        else:
            if isinstance(reply, Running) and asked.program is not None:
                self._programs[reply.pid] = asked.program
            asked.answer.set_result(reply)
            early, self._early = self._early, []
            for status in early:
                self._take_status(status)

    def _take_status(self, status: ProcessStatus) -> None:
        program = self._programs.get(status.pid)
        if program is not None:
            program.stdout(status.stdout)
            program.stderr(status.stderr)
            if not status.running:
                del self._programs[status.pid]
                program.end(status.return_code)
        elif any(asked.program is not None for asked in self._asked.values()):
            if len(self._early) < EARLY_MAX:
                self._early.append(status)
        elif self._start is not None:
            stdout, stderr = self._start
            stdout(status.stdout)
            stderr(status.stderr)

    def _fail(self, reason: str) -> None:
        """Nothing comes any more: whoever waits learns it."""
        self.ended = reason
        for asked in tuple(self._asked.values()):
            if not asked.answer.done():
                asked.answer.set_exception(RuntimeFault(reason))
        for program in self._programs.values():
            if not program.ended.done():
                program.ended.set_exception(RuntimeFault(reason))
        self._programs.clear()
