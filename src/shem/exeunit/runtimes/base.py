"""What the ExeUnit asks of a runtime.

A runtime keeps all that a deployment is in the work directory, so that a new ExeUnit process can
take it up again with `start`. Commands never overlap: the core gives one turn at a time; only
`stop` may come while a program runs, and makes it end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shem.exeunit.script import Command
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
    """What the Offer promised and a program may use."""

    memory_size: int | None = None


class Runtime(Protocol):
    """One deployment of one activity."""

    async def deploy(self, image: Path | None) -> None:
        """Make a fresh deployment of a local image; RuntimeFault when it is none of ours."""

    async def start(self) -> None:
        """Load the deployment, fresh or left by an earlier process, and make it ready to run."""

    async def run(self, command: Command, stdout: Sink, stderr: Sink) -> int:
        """Run a program to its end and return its exit code; Stopped or RuntimeFault otherwise."""

    async def stop(self) -> None:
        """End what runs and return when it has ended; RuntimeFault when it does not end."""
