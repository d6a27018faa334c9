"""The bytes of an encrypted channel, as payloads of Forwards (docs/protocol/encryption.md §3).

    Hello    a GSB call to `/udp/net/<target>/shem/Noise`: a legacy node refuses it, with an answer
    ANSWER   02 be32(initiator's number) noise
    FINISH   03 be32(responder's number) noise
    DATA     04 be32(receiver's number) be64(counter) sealed(kind ‖ payload)

All but the Hello carry the flag 0x0002. Their first byte is no IP version, so that a legacy node
which gets one by mistake drops it unread. Pure.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from shem.kernel.ids import NodeId, node_id_from_bytes, node_id_to_bytes
from shem.net.secure.noise import KEY_SIZE, TAG_SIZE
from shem.wire import gsb
from shem.wire.errors import WireError
from shem.wire.forward import decode_unreliable, encode_unreliable

ENCRYPTED: Final = 0x0002
"""Flag of all packets but the Hello."""
SCHEME: Final = "Noise_XX_25519_ChaChaPoly_SHA256"
"""How users are told that a channel is this one."""
FLAGS: Final = ENCRYPTED.to_bytes(2, "big")
VERSION: Final = 1
ANSWER: Final = 2
FINISH: Final = 3
DATA: Final = 4
HEAD: Final = struct.Struct(">BI")
DATA_HEAD: Final = struct.Struct(">BIQ")
OVERHEAD: Final = DATA_HEAD.size + 1 + TAG_SIZE
"""Bytes that a data packet adds to its payload: 30."""
NUMBER_LIMIT: Final = 1 << 32
"""Channel numbers are below; each side chooses the one that it is addressed by."""

SERVICE: Final = b"/shem/Noise"
_ADDRESS: Final = "/udp/net/{}/shem/Noise"
_SERVICE_WITHIN: Final = 256
"""Where in a call its address ends at the latest."""
_HELLO: Final = struct.Struct(">B20s20sI")


class Kind(IntEnum):
    """What a data packet carries, known only to the two ends."""

    STREAM = 0
    """An IPv6 packet of the virtual network."""
    UNRELIABLE = 1
    """A GSB message that is its own datagram."""
    CONTROL = 2
    """A control packet of the session it arrives on."""
    SIGN_OF_LIFE = 3
    """Nothing: the channel works."""
    SUPERSEDED = 4
    """A newer process with the same identity has taken the receiver's place."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message: in the clear, and bound to everything that follows as prologue."""

    initiator: NodeId
    """Default identity."""
    target: NodeId
    """The identity that the initiator wants to talk to."""
    number: int
    """The initiator's name for the channel."""
    noise: bytes

    @property
    def prologue(self) -> bytes:
        """Return the clear part."""
        return _HELLO.pack(
            VERSION, node_id_to_bytes(self.initiator), node_id_to_bytes(self.target), self.number
        )


def wrap_hello(hello: Hello, request_id: str) -> bytes:
    """Return the unreliable message that offers a channel."""
    call = gsb.CallRequest(
        caller=hello.initiator,
        address=_ADDRESS.format(hello.target),
        request_id=request_id,
        data=hello.prologue + hello.noise,
    )
    return encode_unreliable(gsb.encode_packet(call))


def read_hello(payload: bytes) -> Hello | None:
    """Read an unreliable message as a Hello; None when it is another one, WireError if unusable."""
    if payload.find(SERVICE, 0, _SERVICE_WITHIN) < 0:
        return None
    call = gsb.decode_packet(decode_unreliable(payload))
    if not isinstance(call, gsb.CallRequest) or not call.address.endswith(SERVICE.decode()):
        return None
    if len(call.data) != _HELLO.size + KEY_SIZE:
        raise WireError(f"a Hello of {len(call.data)} bytes")
    version, initiator, target, number = _HELLO.unpack_from(call.data)
    if version != VERSION:
        raise WireError(f"a Hello of version {version}")
    noise = call.data[_HELLO.size :]
    return Hello(node_id_from_bytes(initiator), node_id_from_bytes(target), number, noise)


def is_refusal(payload: bytes, request_id: str) -> bool:
    """Tell whether an unreliable message says that its sender does not know our Hello's address."""
    if payload.find(request_id.encode(), 0, _SERVICE_WITHIN) < 0:
        return False
    try:
        reply = gsb.decode_packet(decode_unreliable(payload))
    except WireError:
        return False
    return (
        isinstance(reply, gsb.CallReply)
        and reply.request_id == request_id
        and reply.code != gsb.Code.OK
    )


def read_head(packet: bytes) -> tuple[int, int]:
    """Return the type of an encrypted packet and the channel number it names."""
    if len(packet) < HEAD.size:
        raise WireError("an encrypted packet is cut off")
    packet_type, number = HEAD.unpack_from(packet)
    return packet_type, number
