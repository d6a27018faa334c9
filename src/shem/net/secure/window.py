"""Which packet counters have been seen: each is taken once (RFC 4303's sliding window).

Pure. A counter far behind the highest is refused although it may be new: whether it is can no
longer be told. Spec: docs/protocol/encryption.md §4.
"""

from typing import Final

WINDOW_SIZE: Final = 4_096
"""Packets that may arrive late: 5 MB in flight, reordered at will."""
_MASK: Final = (1 << WINDOW_SIZE) - 1


class ReplayWindow:
    """Asked by `is_new` before a packet is opened, told by `add` after it was."""

    __slots__ = ("_highest", "_seen")

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0
        """Bit n: the counter n below the highest."""

    def is_new(self, counter: int) -> bool:
        behind = self._highest - counter
        return behind < 0 or (behind < WINDOW_SIZE and not self._seen >> behind & 1)

    def add(self, counter: int) -> None:
        """Mark a counter that is new."""
        behind = self._highest - counter
        if behind >= 0:
            self._seen |= 1 << behind
            return
        self._seen = (self._seen << -behind | 1) & _MASK if -behind < WINDOW_SIZE else 1
        self._highest = counter
