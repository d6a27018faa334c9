"""The resource ledger: what of this machine is promised to which agreement. Pure.

It is a fold over the agreements that the agent remembers, so it survives whatever they survive; an
agreement holds what its Offer says until the last process under it has ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shem.provider.hardware import Capacity, Resources
from shem.provider.offer import MEMORY_GIB, STORAGE_GIB, THREADS

_ROUNDING_GIB = 1e-6


@dataclass(frozen=True, slots=True)
class Ledger:
    """What there is to give, and what is given."""

    capacity: Capacity
    agreements_max: int
    promised: Mapping[str, Resources]
    """By agreement id."""

    @property
    def free(self) -> Resources:
        total, taken = self.capacity.total, self.promised.values()
        threads = total.threads
        if self.capacity.exclusive_threads:
            threads -= sum(held.threads for held in taken)
        return Resources(
            max(0, threads),
            max(0.0, total.memory_gib - sum(held.memory_gib for held in taken)),
            max(0.0, total.storage_gib - sum(held.storage_gib for held in taken)),
        )

    def shortage(self, wanted: Resources) -> str | None:
        """Say why one more agreement cannot be held; None when it can."""
        if len(self.promised) >= self.agreements_max:
            return f"No capacity available. Reached Agreements limit: {self.agreements_max}"
        free = self.free
        lacking = [
            f"{what} ({needed:g} needed, {left:g} free)"
            for what, needed, left in (
                ("threads", wanted.threads, free.threads),
                ("GiB of memory", wanted.memory_gib, free.memory_gib),
                ("GiB of storage", wanted.storage_gib, free.storage_gib),
            )
            if needed > left + _ROUNDING_GIB
        ]
        return f"No capacity available. Too few {', '.join(lacking)}" if lacking else None


def resources_of(offer: Mapping[str, object]) -> Resources:
    """Return what an offer promises; what it does not name it does not take."""
    threads, memory_gib, storage_gib = (
        _amount(offer.get(name)) for name in (THREADS, MEMORY_GIB, STORAGE_GIB)
    )
    return Resources(int(threads), memory_gib, storage_gib)


def _amount(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value)
