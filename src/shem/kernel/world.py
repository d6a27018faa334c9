"""The outside world as one injected value: clocks, randomness, process start.

Services take a `World`; pure cores take `now` and bytes as plain arguments. Nothing outside this
module (and the drivers) reads the clock, draws randomness or starts a process: that is what lets a
whole network run deterministically inside one test. Commits are injected too: `store.sqlite`.
"""

import asyncio
import os
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shem.kernel.piped import PipedProcess, start_piped


class Clock(Protocol):
    """Two clocks: `wall_ns` for what is said and stored, `monotonic` (seconds) for waiting."""

    def wall_ns(self) -> int: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class Rng(Protocol):
    """Randomness; ids and nonces come from here."""

    def token(self, size: int) -> bytes: ...
    def below(self, limit: int) -> int: ...
    def unit(self) -> float: ...


class Process(Protocol):
    """A started process."""

    @property
    def pid(self) -> int: ...
    async def wait(self) -> int: ...


class Processes(Protocol):
    """Starts processes, each in a session of its own, none with our standard streams."""

    async def start(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path
    ) -> Process:
        """Start a detached process that outlives us; its output goes to `log`."""

    async def start_piped(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path | None
    ) -> PipedProcess:
        """Start a child that we talk to; its stderr is a pipe, or appended to `log`."""


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SystemRng:
    """The machine's randomness."""

    def token(self, size: int) -> bytes:
        return secrets.token_bytes(size)

    def below(self, limit: int) -> int:
        return secrets.randbelow(limit)

    def unit(self) -> float:
        return secrets.randbits(53) / (1 << 53)


class SeededRng:
    """Repeatable randomness for simulations; never for keys."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def below(self, limit: int) -> int:
        return self._random.randrange(limit)

    def unit(self) -> float:
        return self._random.random()


class SystemProcesses:
    """Real processes."""

    async def start(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path
    ) -> Process:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return await asyncio.create_subprocess_exec(
                *command,
                cwd=cwd,
                env=dict(env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)

    async def start_piped(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path | None
    ) -> PipedProcess:
        return await start_piped(command, cwd=cwd, env=env, log=log)


def new_hex_id(rng: Rng) -> str:
    """Return 32 random hex digits: the form of activity, batch and key ids."""
    return rng.token(16).hex()


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside that a service may touch."""

    clock: Clock = field(default_factory=SystemClock)
    rng: Rng = field(default_factory=SystemRng)
    processes: Processes = field(default_factory=SystemProcesses)
