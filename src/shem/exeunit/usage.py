"""Usage counters: what an activity has used so far, and the limits of the offer.

Counters go on where the last checkpoint of an earlier process of the same activity left them
(docs/protocol/activity-exeunit.md §11). The order of a report is the agreement's usage vector.
Processor time and memory are those of this process and of all that it has started.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shem.exeunit.agreement import AgreementTerms

DURATION: Final = "golem.usage.duration_sec"
CPU: Final = "golem.usage.cpu_sec"
MEMORY: Final = "golem.usage.gib"
STORAGE: Final = "golem.usage.storage_gib"
COUNTERS: Final = (DURATION, CPU, MEMORY, STORAGE)
MEASURE_PERIOD_S: Final = 1.5
"""What was measured for a report is good enough for the limits, which are looked at each second."""
EARLY: Final = 0.1
"""How much of a period a timer may be early, clocks and fractions being what they are."""
PROCESSES_MAX: Final = 4_096
"""Processes of an activity that are counted; a larger tree counts as far as they go."""
READ_SIZE: Final = 64 << 10
_GIB: Final = 1 << 30
_FILES_MAX: Final = 100_000
"""Files of a work directory that are counted; a larger one counts as far as they go."""
_BLOCK_SIZE: Final = 512
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Usage:
    """The counters of one activity."""

    terms: AgreementTerms
    monotonic: Callable[[], float]
    before: Mapping[str, float]
    """What earlier processes used."""
    own_counters: Callable[[], Mapping[str, float]] = dict
    """Those that the runtime keeps."""
    watched: frozenset[str] = frozenset({MEMORY, STORAGE})
    """Counters whose limit ends the activity; the runtime keeps to the other limits itself."""
    storage_gib: float = 0.0
    frozen: Mapping[str, float] | None = None
    """The counters, when they stand still: the work is over and only delivered."""
    _started_s: float = field(init=False)
    _cpu_s: float = 0.0
    _peak_gib: float = 0.0
    _measured_s: float = -MEASURE_PERIOD_S

    def __post_init__(self) -> None:
        self._started_s = self.monotonic()

    def pause_s(self, period_s: float) -> float:
        """Return how long it is to the next whole period since the start.

        All that is done every second is done at the same moments: an idle process wakes once. Who
        wakes a little before such a moment has woken for it.
        """
        left_s = period_s - (self.monotonic() - self._started_s) % period_s
        return left_s if left_s > EARLY * period_s else left_s + period_s

    def values(self) -> dict[str, float]:
        """Return all counters by name."""
        if self.frozen is not None:
            return dict(self.frozen)
        self._measure()
        own = {
            name: max(value, self.before.get(name, 0.0))
            for name, value in self.own_counters().items()
        }
        return {
            **own,
            DURATION: self.before.get(DURATION, 0.0) + self.monotonic() - self._started_s,
            CPU: self.before.get(CPU, 0.0) + self._cpu_s,
            MEMORY: self._memory_gib(),
            STORAGE: self.storage_gib,
        }

    def _measure(self) -> None:
        self._measured_s = self.monotonic()
        cpu_s, memory_gib = measure_processes()
        self._cpu_s = max(self._cpu_s, cpu_s)
        self._peak_gib = max(self._peak_gib, memory_gib)

    def _memory_gib(self) -> float:
        return max(self.before.get(MEMORY, 0.0), self._peak_gib)

    def vector(self) -> list[float]:
        """Return the counters of the agreement in its order; unknown ones are zero."""
        values = {**self.before, **self.values()}
        return [float(values.get(name, 0.0)) for name in self.terms.usage_vector]

    def exceeded(self) -> str | None:
        """Say which limit is exceeded; None when none is."""
        if not self.watched or self.frozen is not None:
            return None
        if self.monotonic() - self._measured_s > MEASURE_PERIOD_S:
            self._measure()
        values = {MEMORY: self._memory_gib(), STORAGE: self.storage_gib}
        limits = {MEMORY: self.terms.memory_gib, STORAGE: self.terms.storage_gib}
        for name, limit in limits.items():
            if name in self.watched and limit is not None and values[name] > limit:
                return f'Usage limit exceeded: "{name}" exceeded the value of {limit}'
        return None


def measure_processes() -> tuple[float, float]:
    """Return processor seconds and resident GiB of this process and its descendants.

    What a process that has ended used is counted by its parent, which has waited for it.
    """
    ticks = pages = 0
    for pid in _process_tree(os.getpid()):
        with suppress(OSError, ValueError, IndexError):
            fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
            ticks += sum(map(int, fields[11:15]))
            pages += int(fields[21])
    return ticks / _TICKS_PER_S, pages * _PAGE_SIZE / _GIB


def _process_tree(pid: int) -> Iterator[int]:
    pending = [pid]
    for _ in range(PROCESSES_MAX):
        if not pending:
            return
        found = pending.pop()
        yield found
        with suppress(OSError):
            for task in os.scandir(f"/proc/{found}/task"):
                with suppress(OSError):
                    pending += map(int, _read(f"{task.path}/children").split())


def _read(path: str) -> bytes:
    """Read a small file of the kernel's whole, as each activity does every second."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(file, READ_SIZE), b""))
    finally:
        os.close(file)


def measure_directory_gib(directory: Path) -> float:
    """Return what the files below a directory occupy; blocks, so call it from a worker thread."""
    size = 0
    count = 0
    for parent, _, names in os.walk(directory, onerror=None):
        for name in names:
            try:
                size += os.lstat(os.path.join(parent, name)).st_blocks  # noqa: PTH118 - hot loop
            except OSError:
                continue
            count += 1
            if count >= _FILES_MAX:
                return size * _BLOCK_SIZE / _GIB
    return size * _BLOCK_SIZE / _GIB
