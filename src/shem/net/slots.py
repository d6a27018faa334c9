"""Relayed packets of senders we do not know yet: held while the relay is asked who they are. Pure.

Spec: docs/protocol/net.md §6.2 item 4.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from shem.net.post import Post
from shem.net.requests import ASK
from shem.net.session import Session
from shem.wire import relay as r
from shem.wire.forward import Forward

SLOTS_MAX: Final = 256
"""Unknown senders at a time; packets of further ones are dropped."""
HELD_MAX: Final = 64
"""Packets per unknown sender; the oldest is dropped first."""


@dataclass(frozen=True, slots=True)
class WhoIs:
    """Purpose of a Slot request."""

    slot: int


class SlotQuestions:
    """Questions under way and what waits for their answers."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._held: dict[int, deque[Forward]] = {}

    def hold(self, forward: Forward, relay: Session, now: float) -> None:
        if forward.slot not in self._held:
            if len(self._held) >= SLOTS_MAX:
                return
            self._held[forward.slot] = deque(maxlen=HELD_MAX)
        self._held[forward.slot].append(forward)
        self._post.requests.start(
            WhoIs(forward.slot),
            relay.address,
            relay.session_id,
            r.FindSlot(forward.slot),
            pattern=ASK,
            now=now,
        )

    def take(self, slot: int) -> list[Forward]:
        return list(self._held.pop(slot, ()))
