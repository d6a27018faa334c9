"""The sessions of a relay as bytes, so that a restart asks nobody to come back (§5.7).

A relay that stops writes its sessions and recent contacts; the one that starts in its place goes
on with them. The nodes notice nothing but some lost datagrams: no session is made anew, and no
crowd arrives at once. After a crash there is no snapshot: then every node finds out by its own
next ping or datagram. Pure; a snapshot that is too old or cannot be read counts as none.
"""

from typing import Annotated, Final

import msgspec

from shem.kernel.ids import NodeId
from shem.relay.directory import Directory, RelaySession

SNAPSHOT_AGE_MAX_S: Final = 60.0
"""Older ones help nobody: nodes give a silent relay up after 15 to 20 s."""
_VERSION: Final = 1


class _Session(msgspec.Struct, frozen=True, array_like=True):
    session_id: bytes
    host: str
    port: int
    identities: Annotated[list[tuple[NodeId, bytes]], msgspec.Meta(min_length=1)]
    slot: int
    is_registered: bool
    is_public: bool


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    version: int
    saved_unix_s: float
    sessions: list[_Session]
    contacts: list[tuple[int, int, float]]
    """Two slots, and how long ago the last Forward passed; negative when none did."""


def encode_snapshot(directory: Directory, now: float, unix_s: float) -> bytes:
    sessions = [
        _Session(
            session_id=session.session_id,
            host=session.address[0],
            port=session.address[1],
            identities=list(session.identities),
            slot=session.slot,
            is_registered=session.is_registered,
            is_public=session.is_public,
        )
        for session in directory.sessions.values()
    ]
    contacts = [
        (one, other, now - at if at else -1.0) for one, other, at in directory.contacts.pairs()
    ]
    return msgspec.msgpack.encode(_Snapshot(_VERSION, unix_s, sessions, contacts))


def restore_snapshot(data: bytes, directory: Directory, now: float, unix_s: float) -> int:
    """Add the sessions of a snapshot; return how many came back.

    Their silence is counted anew: nobody could reach us meanwhile. A session whose slot has become
    another one stays away, since its peers would reach somebody else by it.
    """
    try:
        found = msgspec.msgpack.decode(data, type=_Snapshot)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
    if found.version != _VERSION or not 0 <= unix_s - found.saved_unix_s <= SNAPSHOT_AGE_MAX_S:
        return 0
    for row in found.sessions:
        _restore(row, directory, now)
    for one, other, ago_s in found.contacts:
        directory.contacts.note(one, other, now - ago_s if ago_s >= 0 else 0.0)
    return len(directory.sessions)


def _restore(row: _Session, directory: Directory, now: float) -> None:
    node_id = row.identities[0][0]
    if not directory.registry.has_slot(node_id) or directory.registry.slot_of(node_id) != row.slot:
        return
    session = RelaySession(
        row.session_id, (row.host, row.port), tuple(row.identities), row.slot, now
    )
    session.is_public = row.is_public
    directory.add(session)
    if row.is_registered:
        directory.register(session)
