"""What the ExeUnit asks of a runtime.

A runtime keeps all that a deployment is in the work directory, so that a new ExeUnit process can
take it up again with `start`. Commands never overlap: the core gives one turn at a time; only
`stop` may come while something runs, and makes it end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shem.exeunit.commands import Command, DeployOptions
from shem.kernel.errors import ShemError


class RuntimeFault(ShemError):
    """The runtime could not do what was asked; the text is the command's error message."""

    code = "runtime"


class Stopped(RuntimeFault):
    """The command was stopped from outside."""


Sink = Callable[[bytes], None]
"""Takes a piece of output; called from any thread."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the Offer promised and a program may use; None is what the runtime thinks right."""

    memory_size: int | None = None
    storage_size: int | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory of the deployment that transfers may use."""

    path: str
    """Where a program sees it."""
    directory: Path


class Runtime(Protocol):
    """One deployment of one activity."""

    async def deploy(
        self, image: Path | None, options: DeployOptions, stdout: Sink, stderr: Sink
    ) -> None:
        """Make a fresh deployment of a local image; RuntimeFault when it is none of ours."""

    async def start(self, args: Sequence[str] | None, stdout: Sink, stderr: Sink) -> None:
        """Make the deployment ready to run; `args` None: as an earlier process started it."""

    async def run(self, command: Command, stdout: Sink, stderr: Sink) -> int:
        """Run a program to its end and return its exit code; Stopped or RuntimeFault otherwise."""

    async def stop(self) -> None:
        """End all that runs, services too; RuntimeFault when it does not end."""

    async def volumes(self) -> tuple[Volume, ...]:
        """Return the directories of the deployment; RuntimeFault when there is none."""

    def counters(self) -> Mapping[str, float]:
        """Return the usage counters that the runtime itself keeps."""
