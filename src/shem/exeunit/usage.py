"""Usage counters: what an activity has used so far, and the limits of the offer.

Counters go on where the last checkpoint of an earlier process of the same activity left them
(docs/protocol/activity-exeunit.md §11). The order of a report is the agreement's usage vector.
"""

import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shem.exeunit.agreement import AgreementTerms

DURATION: Final = "golem.usage.duration_sec"
CPU: Final = "golem.usage.cpu_sec"
MEMORY: Final = "golem.usage.gib"
STORAGE: Final = "golem.usage.storage_gib"
COUNTERS: Final = (DURATION, CPU, MEMORY, STORAGE)
_GIB: Final = 1 << 30
_FILES_MAX: Final = 100_000
"""Files of a work directory that are counted; a larger one counts as far as they go."""


@dataclass(slots=True)
class Usage:
    """The counters of one activity."""

    terms: AgreementTerms
    monotonic: Callable[[], float]
    before: Mapping[str, float]
    """What earlier processes used."""
    storage_gib: float = 0.0
    _started_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._started_s = self.monotonic()

    def values(self) -> dict[str, float]:
        """Return all counters by name."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = used.ru_utime + used.ru_stime + children.ru_utime + children.ru_stime
        peak_gib = used.ru_maxrss * 1024 / _GIB
        return {
            DURATION: self.before.get(DURATION, 0.0) + self.monotonic() - self._started_s,
            CPU: self.before.get(CPU, 0.0) + cpu_s,
            MEMORY: max(self.before.get(MEMORY, 0.0), peak_gib),
            STORAGE: self.storage_gib,
        }

    def vector(self) -> list[float]:
        """Return the counters of the agreement in its order; unknown ones are zero."""
        values = self.values()
        return [float(values.get(name, 0.0)) for name in self.terms.usage_vector]

    def exceeded(self) -> str | None:
        """Say which limit is exceeded; None when none is."""
        values = self.values()
        limits = {MEMORY: self.terms.memory_gib, STORAGE: self.terms.storage_gib}
        for name, limit in limits.items():
            if limit is not None and values[name] > limit:
                return f'Usage limit exceeded: "{name}" exceeded the value of {limit}'
        return None


def measure_directory_gib(directory: Path) -> float:
    """Return the size of the files below a directory; blocks, so call it from a worker thread."""
    size = 0
    count = 0
    for parent, _, names in os.walk(directory, onerror=None):
        for name in names:
            try:
                size += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 - hot loop
            except OSError:
                continue
            count += 1
            if count >= _FILES_MAX:
                return size / _GIB
    return size / _GIB
