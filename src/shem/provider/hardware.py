"""What this machine has, less a reserve for its owner (docs/protocol/provider-agent.md §2.4)."""

import platform
from pathlib import Path
from typing import Final

import psutil

from shem.provider.config import GIB, Hardware

MEMORY_SHARE: Final = 0.7
STORAGE_SHARE: Final = 0.8
THREADS_KEPT: Final = 1
LEAST_GIB: Final = 0.1


def measure(data_dir: Path) -> Hardware:
    """Measure the machine; storage is that of the data directory's partition."""
    threads = psutil.cpu_count() or 1
    return Hardware(
        architecture=platform.machine() or "x86_64",
        cores=psutil.cpu_count(logical=False) or threads,
        threads=max(1, threads - THREADS_KEPT),
        memory_gib=_gib(psutil.virtual_memory().total * MEMORY_SHARE),
        storage_gib=_gib(psutil.disk_usage(str(data_dir)).free * STORAGE_SHARE),
    )


def _gib(size: float) -> float:
    """Return whole GiB, so that the offer does not change with every file."""
    return max(LEAST_GIB, float(int(size / GIB)))
