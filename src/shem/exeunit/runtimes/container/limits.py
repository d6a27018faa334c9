"""Limits of a container: control groups where we may make them, process limits everywhere.

Control groups count all processes of a container together, and can limit what root starts; both
versions are known. Empty groups of earlier containers are removed on the way. Without them, memory
is watched by the keeper and the number of processes limited by the kernel's count per user
namespace, which does not bind root: root without control groups cannot run containers.
"""

import os
import resource
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
PREFIX: Final = "shem-"
PROCESSES_MAX: Final = 1_024
FILES_MAX: Final = 65_536
PERIOD_US: Final = 100_000
LEVELS_MAX: Final = 4
"""How far above our own group a place for new ones is looked for."""
ATTEMPTS: Final = 3
_PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE")
NEEDED: Final = ("memory", "pids")


@dataclass(frozen=True, slots=True)
class ContainerLimits:
    """What one container may use; None is what the machine has."""

    memory_size: int | None = None
    cores: int | None = None
    storage_size: int | None = None


def enter_groups(
    limits: ContainerLimits, name: str, root: Path = CGROUP_ROOT, pid: int | None = None
) -> frozenset[str]:
    """Put this process into new groups with the limits; return what they limit."""
    process = os.getpid() if pid is None else pid
    own = _own_groups()
    limited: set[str] = set()
    if (root / "cgroup.controllers").exists():
        limited |= _enter_v2(limits, name, root, own.get("", "/"), process)
    else:
        for controller in (*NEEDED, "cpu"):
            if controller in own:
                parent = root / controller / own[controller].lstrip("/")
                limited |= _enter_v1(limits, name, parent, controller, process)
    return frozenset(limited)


def set_process_limits(limits: ContainerLimits, limited: frozenset[str]) -> None:
    """Set the limits that children inherit."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, FILES_MAX)
    _limit(resource.RLIMIT_NPROC, PROCESSES_MAX)
    if limits.storage_size is not None:
        _limit(resource.RLIMIT_FSIZE, limits.storage_size)
    if limits.memory_size is not None and "memory" not in limited:
        _limit(resource.RLIMIT_AS, limits.memory_size)


def over_limit(pids: Iterable[int], size_max: int) -> int | None:
    """Return the largest of these processes when together they hold more memory than allowed."""
    sizes: dict[int, int] = {}
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            sizes[pid] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_SIZE
    return max(sizes, key=sizes.__getitem__) if sum(sizes.values()) > size_max else None


def are_enough(limited: frozenset[str]) -> bool:
    """Whether a container of this user cannot take the machine."""
    return os.geteuid() != 0 or set(NEEDED) <= limited


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _own_groups() -> Mapping[str, str]:
    """Return the groups of this process by controller; version 2 has the empty name."""
    groups: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _enter_v1(
    limits: ContainerLimits, name: str, parent: Path, controller: str, pid: int
) -> set[str]:
    quota_us = None if limits.cores is None else limits.cores * PERIOD_US
    settings: Mapping[str, Mapping[str, object]] = {
        "memory": {"memory.limit_in_bytes": limits.memory_size},
        "pids": {"pids.max": PROCESSES_MAX},
        "cpu": {"cpu.cfs_quota_us": quota_us},
    }
    for _ in range(ATTEMPTS):
        try:
            _write(_make_group(parent, name), settings[controller], pid)
        except FileNotFoundError:
            continue  # another container took our empty group for an old one
        except OSError:
            break
        return {controller}
    return set()


def _enter_v2(limits: ContainerLimits, name: str, root: Path, own: str, pid: int) -> set[str]:
    settings = {
        "memory.max": limits.memory_size,
        "memory.swap.max": None if limits.memory_size is None else 0,
        "pids.max": PROCESSES_MAX,
        "cpu.max": None if limits.cores is None else f"{limits.cores * PERIOD_US} {PERIOD_US}",
    }
    parent = root / own.lstrip("/")
    for _ in range(LEVELS_MAX):
        try:
            for controller in (*NEEDED, "cpu"):
                with suppress(OSError):
                    (parent / "cgroup.subtree_control").write_text(f"+{controller}")
            group = _make_group(parent, name)
            there = set((group / "cgroup.controllers").read_text().split())
            if set(NEEDED) <= there:
                chosen = {key: value for key, value in settings.items() if _has(group, key)}
                _write(group, chosen, pid)
                return there & {*NEEDED, "cpu"}
            group.rmdir()
        except OSError:
            pass
        if parent == root:
            break
        parent = parent.parent
    return set()


def _has(group: Path, setting: str) -> bool:
    return (group / setting).exists()


def _make_group(parent: Path, name: str) -> Path:
    for old in parent.glob(PREFIX + "*"):
        with suppress(OSError):
            old.rmdir()  # refused while anything lives in it
    group = parent / (PREFIX + name)
    group.mkdir()
    return group


def _write(group: Path, settings: Mapping[str, object], pid: int) -> None:
    try:
        for setting, value in settings.items():
            if value is not None:
                (group / setting).write_text(str(value))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        with suppress(OSError):
            group.rmdir()
        raise
