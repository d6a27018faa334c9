"""Answer a repeated message from a peer with the answer it had before.

    async with store.unit(key) as unit:
        reply = await answered(unit, message)
        if reply is None:
            …                                   # decide, buffer the writes
            remember(unit, message, reply, now_ns)

The message and its answer become durable in the unit that does what the message asks for. The same
key with other contents breaks the protocol.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from shem.kernel.errors import PeerError, UsageError
from shem.kernel.ids import NodeId
from shem.store.unit import Unit

REPLY_SIZE_MAX: Final = 1 << 20
_FIND: Final = """
    SELECT digest, reply FROM inbox
    WHERE identity = :identity AND peer = :peer AND kind = :kind AND key = :key
"""
_REMEMBER: Final = """
    INSERT INTO inbox (identity, peer, kind, key, digest, reply, received_ns)
    VALUES (:identity, :peer, :kind, :key, :digest, :reply, :received_ns)
"""


@dataclass(frozen=True, slots=True)
class InboxMessage:
    """What a peer sent: `key` names it among its kind, `contents` is what a repeat must equal."""

    identity: NodeId
    peer: NodeId
    kind: str
    key: str
    contents: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.contents).hexdigest()


async def answered(unit: Unit, message: InboxMessage) -> bytes | None:
    """Return the answer given before; PeerError when the same key had other contents."""
    rows = await unit.fetch(
        _FIND,
        identity=message.identity,
        peer=message.peer,
        kind=message.kind,
        key=message.key,
    )
    if not rows:
        return None
    if rows[0]["digest"] != message.digest:
        raise PeerError(f"{message.kind} {message.key} was sent before with other contents")
    reply: bytes = rows[0]["reply"]
    return reply


def remember(unit: Unit, message: InboxMessage, reply: bytes, now_ns: int) -> None:
    """Keep the answer with the act it reports."""
    if len(reply) > REPLY_SIZE_MAX:
        raise UsageError(f"an answer of {len(reply)} bytes exceeds {REPLY_SIZE_MAX}")
    unit.execute(
        _REMEMBER,
        identity=message.identity,
        peer=message.peer,
        kind=message.kind,
        key=message.key,
        digest=message.digest,
        reply=reply,
        received_ns=now_ns,
    )
