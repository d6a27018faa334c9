"""What of this machine is offered: `hardware.json` and its profiles (docs/protocol/
provider-agent.md §2.4).

A profile caps what all agreements together may use; the machine, and the operator's options, cap
the profile. An Offer promises one agreement's share of it: the profile's `per_agreement`, or what
is left when the profile is divided by the number of agreements. Processor threads are shared by
agreements as programs share them; with `exclusive_threads` each agreement has its own.
"""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import psutil

from shem.kernel.errors import Conflict, NotFound, UsageError
from shem.provider.files import read_file, write_file

FILE_NAME: Final = "hardware.json"
DEFAULT_PROFILE: Final = "default"
MEMORY_SHARE: Final = 0.7
STORAGE_SHARE: Final = 0.8
THREADS_KEPT: Final = 1
LEAST_GIB: Final = 0.1
MOST_GIB: Final = 1e9
THREADS_MAX: Final = 4_096
PROFILES_MAX: Final = 64
GIB: Final = 1 << 30
REMEDY: Final = "correct it, or move it away: the default profile is then made anew"


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of the machine."""

    threads: int
    memory_gib: float
    storage_gib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is."""

    architecture: str
    cores: int
    threads: int
    memory_gib: float
    storage_gib: float

    @property
    def resources(self) -> Resources:
        return Resources(self.threads, self.memory_gib, self.storage_gib)


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Amounts as the file says them."""

    cpu_threads: int
    mem_gib: float
    storage_gib: float


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One way to divide the machine."""

    cpu_threads: int
    mem_gib: float
    storage_gib: float
    per_agreement: Share | None = None
    exclusive_threads: bool = False


class Profiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file: all profiles and the one in use."""

    active: str
    profiles: dict[str, Profile]

    def get(self, name: str) -> Profile:
        if name not in self.profiles:
            raise NotFound(f"there is no profile {name!r} (there are: {', '.join(self.profiles)})")
        return self.profiles[name]

    def created(self, name: str, profile: Profile) -> "Profiles":
        if name in self.profiles:
            raise Conflict(f"there is a profile {name!r} already: update or remove it")
        return self._with(name, profile)

    def updated(self, name: str, profile: Profile) -> "Profiles":
        self.get(name)
        return self._with(name, profile)

    def removed(self, name: str) -> "Profiles":
        self.get(name)
        if name == self.active:
            raise Conflict(f"profile {name!r} is in use: activate another first")
        left = {other: profile for other, profile in self.profiles.items() if other != name}
        return Profiles(self.active, left)

    def activated(self, name: str) -> "Profiles":
        self.get(name)
        return Profiles(name, self.profiles)

    def _with(self, name: str, profile: Profile) -> "Profiles":
        check_profile(name, profile)
        if len(self.profiles) >= PROFILES_MAX:
            raise UsageError(f"there are at most {PROFILES_MAX} profiles")
        return Profiles(self.active, {**self.profiles, name: profile})


@dataclass(frozen=True, slots=True)
class Capacity:
    """What is to be given away: all together, and to one agreement."""

    total: Resources
    share: Resources
    exclusive_threads: bool = False


def measure(data_dir: Path) -> Machine:
    """Measure the machine; storage is what is free on the data directory's partition."""
    threads = psutil.cpu_count() or 1
    there = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    return Machine(
        architecture=platform.machine() or "x86_64",
        cores=psutil.cpu_count(logical=False) or threads,
        threads=threads,
        memory_gib=psutil.virtual_memory().total / GIB,
        storage_gib=psutil.disk_usage(str(there)).free / GIB,
    )


def default_profiles(machine: Machine) -> Profiles:
    """Return the first file: the machine less a reserve for its owner."""
    there = machine.resources
    profile = Profile(
        cpu_threads=max(1, there.threads - THREADS_KEPT),
        mem_gib=_round(there.memory_gib * MEMORY_SHARE),
        storage_gib=_round(there.storage_gib * STORAGE_SHARE),
    )
    return Profiles(DEFAULT_PROFILE, {DEFAULT_PROFILE: profile})


def capacity(profile: Profile, machine: Resources, *, agreements_max: int) -> Capacity:
    """Return what a profile gives away on this machine."""
    total = Resources(
        max(1, min(profile.cpu_threads, machine.threads)),
        max(LEAST_GIB, min(profile.mem_gib, machine.memory_gib)),
        max(LEAST_GIB, min(profile.storage_gib, machine.storage_gib)),
    )
    wanted = profile.per_agreement
    parted = agreements_max if profile.exclusive_threads else 1
    share = Resources(
        max(1, total.threads // parted)
        if wanted is None
        else min(wanted.cpu_threads, total.threads),
        _part(total.memory_gib, None if wanted is None else wanted.mem_gib, agreements_max),
        _part(total.storage_gib, None if wanted is None else wanted.storage_gib, agreements_max),
    )
    return Capacity(total, share, profile.exclusive_threads)


def capped(machine: Resources, caps: tuple[int | None, float | None, float | None]) -> Resources:
    """Return the machine as far as the operator's options let us see it."""
    threads, memory_gib, storage_gib = caps
    return Resources(
        machine.threads if threads is None else min(threads, machine.threads),
        machine.memory_gib if memory_gib is None else min(memory_gib, machine.memory_gib),
        machine.storage_gib if storage_gib is None else min(storage_gib, machine.storage_gib),
    )


def check_profile(name: str, profile: Profile) -> None:
    """Refuse a profile that gives nothing away, or what no machine has."""
    shares: list[tuple[str, Profile | Share]] = [("", profile)]
    if profile.per_agreement is not None:
        shares.append(("per_agreement.", profile.per_agreement))
    for prefix, share in shares:
        if not 1 <= share.cpu_threads <= THREADS_MAX:
            raise UsageError(f"profile {name!r}: {prefix}cpu_threads is 1 to {THREADS_MAX}")
        for key in ("mem_gib", "storage_gib"):
            if not LEAST_GIB <= getattr(share, key) <= MOST_GIB:
                raise UsageError(f"profile {name!r}: {prefix}{key} is {LEAST_GIB} or more")


def load_profiles(data_dir: Path) -> Profiles | None:
    """Read the file; None when there is none, UsageError when it cannot be used."""
    path = data_dir / FILE_NAME
    found = read_file(path, Profiles, remedy=REMEDY)
    if found is None:
        return None
    try:
        for name, profile in found.profiles.items():
            check_profile(name, profile)
        found.get(found.active)
    except (UsageError, NotFound) as error:
        raise UsageError(f"{path}: {error.message}; {REMEDY}") from error
    return found


def save_profiles(data_dir: Path, profiles: Profiles) -> None:
    write_file(data_dir / FILE_NAME, profiles)


def _part(total: float, wanted: float | None, parts: int) -> float:
    part = total / parts if wanted is None else min(wanted, total)
    return max(LEAST_GIB, _round(part))


def _round(gib: float) -> float:
    """Return GiB with two places, rounded down."""
    return max(LEAST_GIB, int(gib * 100) / 100)
