"""ExeUnit descriptors: which runtimes this provider has (docs/protocol/provider-agent.md §3).

A descriptor file is a JSON array; paths in it are relative to the file. Without any, the provider
has the runtimes that come with shem: the WASI one under the network's name for it, and containers.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from shem.kernel.command import own_command
from shem.kernel.errors import UsageError

DESCRIPTORS_MAX: Final = 64
BUILT_IN_VERSION: Final = "0.1.0"
QUESTION_TIMEOUT_S: Final = 30.0
ANSWER_SIZE_MAX: Final = 1 << 20

log = structlog.get_logger()


class _CounterEntry(msgspec.Struct, rename="kebab"):
    name: str = ""
    description: str = ""
    price: bool = False


class _Config(msgspec.Struct, rename="kebab"):
    counters: dict[str, _CounterEntry] = {}


class _Entry(msgspec.Struct, rename="kebab"):
    name: str
    version: str
    supervisor_path: str
    description: str | None = None
    runtime_path: str | None = None
    extra_args: list[str] = []
    properties: dict[str, Any] = {}
    config: _Config | None = None


@dataclass(frozen=True, slots=True)
class Counter:
    """Something that a runtime measures."""

    name: str
    """The short name, for people."""
    price: bool
    """Whether a new preset names it with a price."""


COUNTERS: Final[Mapping[str, Counter]] = {
    "golem.usage.duration_sec": Counter("duration", price=True),
    "golem.usage.cpu_sec": Counter("cpu", price=True),
    "golem.usage.storage_gib": Counter("storage_gib", price=False),
}
"""What a runtime measures whose descriptor does not say."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One runtime and how its ExeUnit is started."""

    name: str
    version: str
    command: tuple[str, ...]
    """All that stands before the sub-command."""
    properties: Mapping[str, Any] = field(default_factory=dict)
    counters: Mapping[str, Counter] = field(default_factory=lambda: COUNTERS)
    """By property."""
    description: str = ""

    @property
    def priced(self) -> tuple[str, ...]:
        return tuple(name for name, counter in self.counters.items() if counter.price)

    @property
    def short_names(self) -> dict[str, str]:
        """Return the property of each counter by its short name."""
        return {counter.name: name for name, counter in self.counters.items()}

    def service_command(
        self, activity_id: str, *, agreement_file: Path, work_dir: Path, cache_dir: Path
    ) -> list[str]:
        """Return the command line that runs an activity (activity-exeunit.md §6.1)."""
        return [
            *self.command,
            "service-bus",
            activity_id,
            "/local/activity",
            "-c",
            str(cache_dir),
            "-w",
            str(work_dir),
            "-a",
            str(agreement_file),
        ]


BUILT_IN: Final = Descriptor(
    name="wasmtime",
    version=BUILT_IN_VERSION,
    command=(*own_command(), "exe-unit"),
    properties={"wasm.wasi.version@v": "0.9.0"},
    description="WASI programs in a sandbox",
)


CONTAINER: Final = Descriptor(
    name="container",
    version=BUILT_IN_VERSION,
    command=(*own_command(), "exe-unit", "--runtime", "container"),
    description="Golem images in a container",
)
"""Offered where it works. Its images are those of `vm`, but it is none: an operator who wants to
offer it as one writes a descriptor that says so."""


def load_descriptors(pattern: str | None) -> tuple[Descriptor, ...]:
    """Read the descriptors that a path names (`*` allowed in it); the built-in ones for None."""
    if pattern is None:
        return (BUILT_IN, CONTAINER)
    paths = sorted(glob(pattern))  # noqa: PTH207 - the pattern may be absolute
    found = [descriptor for path in paths for descriptor in _load_file(Path(path))]
    if not found:
        raise UsageError(f"EXE_UNIT_PATH {pattern!r}: no runtimes available")
    if len(found) > DESCRIPTORS_MAX:
        raise UsageError(f"EXE_UNIT_PATH {pattern!r}: more than {DESCRIPTORS_MAX} runtimes")
    return tuple(found)


def _load_file(path: Path) -> list[Descriptor]:
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[_Entry])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from error
    return [_descriptor(path.parent, entry) for entry in entries]


def _descriptor(base: Path, entry: _Entry) -> Descriptor:
    supervisor = base / entry.supervisor_path
    if not supervisor.exists():
        raise UsageError(f"runtime {entry.name}: there is no {supervisor}")
    command = [str(supervisor)]
    if entry.runtime_path is not None:
        runtime = base / entry.runtime_path
        if not runtime.exists():
            raise UsageError(f"runtime {entry.name}: there is no {runtime}")
        command += ["-b", str(runtime)]
    counters = COUNTERS
    if entry.config is not None and entry.config.counters:
        counters = {
            name: Counter(said.name or name, said.price)
            for name, said in entry.config.counters.items()
        }
    return Descriptor(
        entry.name,
        entry.version,
        (*command, *entry.extra_args),
        dict(entry.properties),
        counters,
        entry.description or "",
    )


async def working(descriptors: Sequence[Descriptor]) -> tuple[Descriptor, ...]:
    """Return the runtimes that work here; UsageError when one does not that was asked for."""
    found = [descriptor for descriptor in descriptors if descriptor is BUILT_IN]
    for descriptor in descriptors:
        if descriptor is BUILT_IN:
            continue
        try:
            await _output_of((*descriptor.command, "test"), descriptor.name, "test")
        except UsageError as error:
            if descriptor is not CONTAINER:
                raise
            log.info("runtime.not_offered", runtime=descriptor.name, reason=error.message)
        else:
            found.append(descriptor)
    return tuple(found)


async def offer_template(descriptor: Descriptor) -> dict[str, Any]:
    """Ask the ExeUnit for its template; UsageError when it gives none that can be used."""
    command = (*descriptor.command, "offer-template")
    text = await _output_of(command, descriptor.name, "offer-template")
    try:
        template = json.loads(text)
        properties = template["properties"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"runtime {descriptor.name}: bad offer template: {error!r}") from error
    if not isinstance(properties, dict):
        raise UsageError(f"runtime {descriptor.name}: the offer template's properties are no map")
    return template if isinstance(template, dict) else {}


async def _output_of(command: Sequence[str], name: str, question: str) -> bytes:
    """Ask an ExeUnit a question that it answers on its output."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise UsageError(f"runtime {name}: {error}") from error
    try:
        async with asyncio.timeout(QUESTION_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        raise UsageError(
            f"runtime {name}: no answer to {question} in {QUESTION_TIMEOUT_S:g} s"
        ) from None
    finally:
        if process.returncode is None:  # nobody waits for its answer any more
            process.kill()
            await process.wait()
    if process.returncode != 0 or len(output) > ANSWER_SIZE_MAX:
        raise UsageError(f"runtime {name}: {question} failed ({process.returncode})")
    return output
