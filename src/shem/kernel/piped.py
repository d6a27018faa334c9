"""A child process that we talk to through pipes.

`wait` returns as soon as the process has ended, even while something that it started still holds
its output open; whoever reads decides how long to wait for the rest.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PipedProcess:
    """A started child."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader | None
    """None when it goes to a file."""
    _process: asyncio.subprocess.Process
    _pipes: tuple[asyncio.ReadTransport, ...]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end of this process alone and return its exit code."""
        return await self._process.wait()

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self._process.returncode is None:
            self._process.kill()

    def close(self) -> None:
        """Read no more; the process may go on."""
        self.stdin.close()
        for pipe in self._pipes:
            pipe.close()


async def start_piped(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path | None
) -> PipedProcess:
    """Start a child in a session of its own; its stderr is a pipe, or appended to `log`."""
    with ExitStack() as theirs:
        reading, writing = os.pipe()
        theirs.callback(os.close, writing)
        readers = [await _reader(reading)]
        if log is None:
            reading, error_writing = os.pipe()
            readers.append(await _reader(reading))
        else:
            error_writing = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        theirs.callback(os.close, error_writing)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=cwd,
                env=dict(env),
                stdin=asyncio.subprocess.PIPE,
                stdout=writing,
                stderr=error_writing,
                start_new_session=True,
            )
        except BaseException:
            for _, pipe in readers:
                pipe.close()
            raise
    assert process.stdin is not None
    stderr = readers[1][0] if log is None else None
    pipes = tuple(pipe for _, pipe in readers)
    return PipedProcess(process.stdin, readers[0][0], stderr, process, pipes)


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    return reader, transport
