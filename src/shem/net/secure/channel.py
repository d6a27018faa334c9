"""One end of an encrypted channel: packets sealed under counters, opened at most once.

A key per direction, the counter in the packet as nonce; both nodes' names, the flags and the head
of the packet as associated data. What the hops change (session ids and slots) is not bound: packets
may go direct, through a relay, or from a new address. Limits say when a channel is renewed, and
when it is no longer used. Pure. Spec: docs/protocol/encryption.md §4.
"""

from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shem.kernel.errors import PeerError
from shem.kernel.ids import NodeId, node_id_to_bytes
from shem.net.secure.noise import nonce
from shem.net.secure.packets import DATA, DATA_HEAD, FLAGS, OVERHEAD, Kind
from shem.net.secure.window import ReplayWindow

RENEW_AFTER_S: Final = 600.0
RENEW_AFTER_PACKETS: Final = 1 << 32
"""A channel older or longer is replaced while it goes on."""
REJECT_AFTER_S: Final = 1_800.0
REJECT_AFTER_PACKETS: Final = 1 << 48
"""And then it is not used any more: its keys are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """What a handshake ended with."""

    own_ids: tuple[NodeId, ...]
    """Identities that we have proven, the default one first."""
    own_number: int
    peer_ids: tuple[NodeId, ...]
    """Proven identities of the peer, the default one first."""
    peer_number: int
    peer_static: bytes
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    is_initiator: bool


class Channel:
    """See the module."""

    __slots__ = (
        "_open_context",
        "_opener",
        "_seal_context",
        "_sealer",
        "_window",
        "agreed",
        "identities",
        "opened",
        "sent",
        "since",
    )

    def __init__(self, agreed: Agreed, now: float) -> None:
        own, peer = node_id_to_bytes(agreed.own_ids[0]), node_id_to_bytes(agreed.peer_ids[0])
        self.agreed = agreed
        self.identities = frozenset(agreed.peer_ids)
        self.since = now
        self.sent = 0
        self.opened = 0
        self._sealer = ChaCha20Poly1305(agreed.send_key)
        self._opener = ChaCha20Poly1305(agreed.receive_key)
        self._seal_context = own + peer + FLAGS
        self._open_context = peer + own + FLAGS
        self._window = ReplayWindow()

    @property
    def peer_id(self) -> NodeId:
        return self.agreed.peer_ids[0]

    def is_usable(self, now: float) -> bool:
        return now - self.since < REJECT_AFTER_S and self.sent < REJECT_AFTER_PACKETS

    def wants_renewal(self, now: float) -> bool:
        return now - self.since >= RENEW_AFTER_S or self.sent >= RENEW_AFTER_PACKETS

    def seal(self, kind: Kind, payload: bytes) -> bytes:
        """Return the packet for the peer."""
        counter = self.sent
        self.sent = counter + 1
        head = DATA_HEAD.pack(DATA, self.agreed.peer_number, counter)
        plain = bytes((kind,)) + payload
        return head + self._sealer.encrypt(nonce(counter), plain, self._seal_context + head)

    def open(self, packet: bytes) -> tuple[Kind, bytes]:
        """Return what the peer sealed; PeerError for what is forged, changed or seen before."""
        if len(packet) < OVERHEAD:
            raise PeerError("a data packet is cut off")
        head = packet[: DATA_HEAD.size]
        counter = DATA_HEAD.unpack(head)[2]
        if counter >= REJECT_AFTER_PACKETS or not self._window.is_new(counter):
            raise PeerError(f"packet {counter} has been seen or is too old")
        try:
            plain = self._opener.decrypt(
                nonce(counter), packet[DATA_HEAD.size :], self._open_context + head
            )
        except InvalidTag as error:
            raise PeerError(f"packet {counter} is not authentic") from error
        self._window.add(counter)
        self.opened += 1
        try:
            return Kind(plain[0]), plain[1:]
        except ValueError as error:
            raise PeerError(f"a data packet of kind {plain[0]}") from error
