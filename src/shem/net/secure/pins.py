"""Which identities have once spoken encrypted with us: in the clear they are not believed again.

Otherwise whoever sits between two nodes could talk them back into plain text. Kept in memory, and
told to `on_pinned` for those who want to keep it longer. Spec: docs/protocol/encryption.md §5.
"""

from collections.abc import Callable, Iterable
from typing import Final

from shem.kernel.ids import NodeId

PINS_MAX: Final = 100_000
"""Identities remembered; the one pinned first is forgotten first."""
TELL_AGAIN_S: Final = 86_400.0
"""A pin in use is told again after a day, so that its keeper may let old ones go."""


class Pins:
    """A set of node ids that only grows."""

    def __init__(
        self,
        known: Iterable[NodeId] = (),
        on_pinned: Callable[[tuple[NodeId, ...]], None] | None = None,
    ) -> None:
        self._told_at: dict[NodeId, float | None] = dict.fromkeys(known)
        self._on_pinned = on_pinned

    def __contains__(self, node_id: NodeId) -> bool:
        return node_id in self._told_at

    def without(self, identities: frozenset[NodeId]) -> frozenset[NodeId]:
        """Return those that are not pinned."""
        if self._told_at.keys().isdisjoint(identities):
            return identities
        return identities - self._told_at.keys()

    def add(self, identities: tuple[NodeId, ...], now: float) -> None:
        fresh = tuple(each for each in identities if self._is_due(each, now))
        if not fresh:
            return
        for identity in fresh:
            self._told_at[identity] = now
        while len(self._told_at) > PINS_MAX:
            del self._told_at[next(iter(self._told_at))]
        if self._on_pinned is not None:
            self._on_pinned(fresh)

    def _is_due(self, identity: NodeId, now: float) -> bool:
        told_at = self._told_at.get(identity)
        return told_at is None or now - told_at >= TELL_AGAIN_S
