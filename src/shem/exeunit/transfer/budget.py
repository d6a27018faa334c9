"""What one transfer may use, and the way to stop it where it works in a thread."""

from dataclasses import dataclass
from typing import Final

from shem.exeunit.runtimes.base import RuntimeFault, Stopped

ENTRIES_MAX: Final = 200_000
TRANSFER_SIZE_MAX: Final = 256 << 30


@dataclass(slots=True)
class Budget:
    """Bytes and entries that are left; every spending is a point where it can be stopped."""

    size_max: int = TRANSFER_SIZE_MAX
    entries_max: int = ENTRIES_MAX
    stopped: bool = False
    size: int = 0
    entries: int = 0

    def spend(self, size: int) -> None:
        """Count bytes that are about to be written."""
        if self.stopped:
            raise Stopped("the command was stopped")
        self.size += size
        if self.size > self.size_max:
            raise RuntimeFault(f"the transfer has more than the {self.size_max} bytes allowed")

    def enter(self) -> None:
        """Count a file, directory or link."""
        self.entries += 1
        if self.entries > self.entries_max:
            raise RuntimeFault(f"an archive has at most {self.entries_max} entries")
        self.spend(0)
