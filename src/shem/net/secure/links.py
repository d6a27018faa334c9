"""The channels that are open, by peer and by the number that packets name. Pure.

The newest channel of a peer is used for sending; older ones still open what is under way, since
both sides may have opened one at once. A channel that this side opened is confirmed by the first
packet from the peer; until then the FINISH is sent again. Spec: docs/protocol/encryption.md §4.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from shem.kernel.caller import Assurance
from shem.kernel.ids import NodeId
from shem.net.secure.channel import Channel
from shem.net.types import Peer

PEERS_MAX: Final = 16_384
"""Peers with channels; the one that opened its first the longest ago gives way."""
CHANNELS_PER_PEER_MAX: Final = 3
STATICS_MAX: Final = 8
"""Earlier processes remembered per peer."""
FINISH_TIMES_S: Final = (0.2, 0.5, 1.0, 2.0, 3.0)
"""When an unconfirmed FINISH is sent again."""


@dataclass(slots=True, eq=False)
class Link:
    """One open channel."""

    channel: Channel
    peer: Peer
    """Whom its packets come from."""
    finish: bytes | None
    """Ours, until the peer has shown that it got it."""
    finishes: int = 0

    def finish_due(self) -> float | None:
        """Return when the FINISH is to be sent again."""
        if self.finish is None or self.finishes >= len(FINISH_TIMES_S):
            return None
        return self.channel.since + FINISH_TIMES_S[self.finishes]


@dataclass(slots=True, eq=False)
class Talk:
    """What passes between us and one peer."""

    links: list[Link] = field(default_factory=list)
    """Newest first."""
    former_statics: deque[bytes] = field(default_factory=lambda: deque(maxlen=STATICS_MAX))
    """Static keys that others took the place of: each process of the peer has its own."""
    used_at: float = 0.0
    unheard_since: float | None = None
    """We have sent since then, and opened nothing."""
    owing_since: float | None = None
    """We have opened something since then, and sent nothing."""


class Links:
    """See the module."""

    def __init__(self) -> None:
        self._talks: dict[NodeId, Talk] = {}
        self._by_number: dict[int, Link] = {}
        self._unconfirmed: list[Link] = []

    def __len__(self) -> int:
        return len(self._by_number)

    def __contains__(self, number: object) -> bool:
        return number in self._by_number

    def talks(self) -> Iterator[tuple[NodeId, Talk]]:
        return iter(tuple(self._talks.items()))

    def talk(self, peer: NodeId) -> Talk | None:
        return self._talks.get(peer)

    def by_number(self, number: int) -> Link | None:
        return self._by_number.get(number)

    def current(self, peer: NodeId, now: float) -> Link | None:
        """Return the link for sending."""
        talk = self._talks.get(peer)
        if talk is None or not talk.links[0].channel.is_usable(now):
            return None
        return talk.links[0]

    def is_superseded(self, channel: Channel) -> bool:
        """Tell whether a newer process of the peer has had a channel since."""
        talk = self._talks.get(channel.peer_id)
        return talk is not None and channel.agreed.peer_static in talk.former_statics

    def add(self, channel: Channel, finish: bytes | None, now: float) -> bool:
        """Open a link; tell whether it is with another process of the peer than the last one."""
        peer_id = channel.peer_id
        link = Link(channel, Peer(peer_id, channel.identities, Assurance.ENCRYPTED), finish)
        talk = self._talks.get(peer_id)
        if talk is None:
            if len(self._talks) >= PEERS_MAX:
                self.forget(next(iter(self._talks)))
            talk = self._talks[peer_id] = Talk()
        before = talk.links[0] if talk.links else None
        talk.links.insert(0, link)
        talk.used_at, talk.unheard_since = now, None
        self._by_number[channel.agreed.own_number] = link
        if finish is not None:
            self._unconfirmed.append(link)
        for old in talk.links[CHANNELS_PER_PEER_MAX:]:
            self._close(talk, old)
        static = channel.agreed.peer_static
        if before is None or before.channel.agreed.peer_static == static:
            return False
        talk.former_statics.append(before.channel.agreed.peer_static)
        for old in talk.links[1:]:
            self._close(talk, old)
        return True

    def forget(self, peer: NodeId) -> None:
        """Close all channels with a peer."""
        talk = self._talks.get(peer)
        for link in tuple(talk.links if talk else ()):
            self._close(self._talks[peer], link)
        self._talks.pop(peer, None)

    def expire(self, now: float) -> None:
        for peer, talk in self.talks():
            for link in tuple(talk.links):
                if not link.channel.is_usable(now):
                    self._close(talk, link)
            if not talk.links:
                del self._talks[peer]

    def finishes_due(self, now: float) -> list[Link]:
        """Return the links whose FINISH is to be sent again now."""
        self._unconfirmed = [each for each in self._unconfirmed if each.finish_due() is not None]
        due = [each for each in self._unconfirmed if (each.finish_due() or 0.0) <= now]
        for link in due:
            link.finishes += 1
        return due

    def next_finish(self) -> float | None:
        times = (link.finish_due() for link in self._unconfirmed)
        return min((time for time in times if time is not None), default=None)

    def _close(self, talk: Talk, link: Link) -> None:
        talk.links.remove(link)
        del self._by_number[link.channel.agreed.own_number]
        link.finish = None
