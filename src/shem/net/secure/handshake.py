"""The three messages that open a channel: Noise XX, with proofs of identity as payloads.

    Hello    prologue ‖ e
    ANSWER   e, ee, s, es  [ be32(responder's number) ‖ responder's proof ]
    FINISH   s, se         [ initiator's proof ]

Whoever talks is known by signature before anything is told to or taken from it. A message that is
no good raises PeerError and changes nothing. Pure. Spec: docs/protocol/encryption.md §2.
"""

from collections.abc import Sequence
from typing import Final

from shem.identity.keys import PrivateKey
from shem.kernel.errors import PeerError
from shem.kernel.ids import NodeId
from shem.net.secure import proof
from shem.net.secure.channel import Agreed
from shem.net.secure.noise import Handshake, KeyPair
from shem.net.secure.packets import ANSWER, FINISH, HEAD, Hello
from shem.net.secure.proof import Role

LABEL: Final = b"shem secure channel 1"
"""Begins the prologue, so that no other protocol's messages fit."""
_NUMBER_SIZE: Final = 4


class Initiator:
    """The side that says Hello; it wants to talk to one identity."""

    def __init__(
        self,
        keys: Sequence[PrivateKey],
        target: NodeId,
        number: int,
        static: KeyPair,
        ephemeral: KeyPair,
    ) -> None:
        bare = Hello(keys[0].node_id, target, number, b"")
        self._keys = keys
        self._static = static
        self._prologue = LABEL + bare.prologue
        self._noise = Handshake(
            is_initiator=True, prologue=self._prologue, static=static, ephemeral=ephemeral
        )
        self.hello = Hello(bare.initiator, target, number, self._noise.write(b""))

    def on_answer(self, packet: bytes) -> tuple[Agreed, bytes]:
        """Return what was agreed, and the FINISH for the responder."""
        noise, payload = self._noise.read(packet[HEAD.size :])
        signed = proof.digest(Role.RESPONDER, self._prologue, noise.remote_static, self._noise.hash)
        peer_ids = proof.verify(signed, payload[_NUMBER_SIZE:])
        if peer_ids[0] == self.hello.initiator:
            raise PeerError("our own identity answers")
        to_sign = proof.digest(Role.INITIATOR, self._prologue, self._static.public, noise.hash)
        number = int.from_bytes(payload[:_NUMBER_SIZE])
        finish = HEAD.pack(FINISH, number) + noise.write(proof.sign(to_sign, self._keys))
        send_key, receive_key = noise.split()
        agreed = Agreed(
            own_ids=tuple(key.node_id for key in self._keys),
            own_number=self.hello.number,
            peer_ids=peer_ids,
            peer_number=number,
            peer_static=noise.remote_static,
            send_key=send_key,
            receive_key=receive_key,
            is_initiator=True,
        )
        return agreed, finish


class Responder:
    """The side that was greeted; `answer` may be sent again."""

    def __init__(
        self,
        keys: Sequence[PrivateKey],
        hello: Hello,
        number: int,
        static: KeyPair,
        ephemeral: KeyPair,
    ) -> None:
        if hello.target not in {key.node_id for key in keys}:
            raise PeerError(f"a Hello to {hello.target} came here")
        self.hello = hello
        self.number = number
        self._own_ids = tuple(key.node_id for key in keys)
        self._prologue = LABEL + hello.prologue
        fresh = Handshake(
            is_initiator=False, prologue=self._prologue, static=static, ephemeral=ephemeral
        )
        self._noise, _ = fresh.read(hello.noise)
        to_sign = proof.digest(Role.RESPONDER, self._prologue, static.public, self._noise.hash)
        payload = number.to_bytes(_NUMBER_SIZE) + proof.sign(to_sign, keys)
        self.answer = HEAD.pack(ANSWER, hello.number) + self._noise.write(payload)

    def on_finish(self, packet: bytes) -> Agreed:
        """Return what was agreed."""
        noise, payload = self._noise.read(packet[HEAD.size :])
        signed = proof.digest(Role.INITIATOR, self._prologue, noise.remote_static, self._noise.hash)
        peer_ids = proof.verify(signed, payload)
        if peer_ids[0] != self.hello.initiator:
            raise PeerError(f"{peer_ids[0]} says Hello as {self.hello.initiator}")
        send_key, receive_key = noise.split()
        return Agreed(
            own_ids=self._own_ids,
            own_number=self.number,
            peer_ids=peer_ids,
            peer_number=self.hello.number,
            peer_static=noise.remote_static,
            send_key=send_key,
            receive_key=receive_key,
            is_initiator=False,
        )
