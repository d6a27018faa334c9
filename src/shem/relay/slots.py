"""The slot file: 20-byte node ids in slot order (docs/protocol/net.md §5.3).

It is appended to without a sync: a slot that a power cut loses is one that no session refers to any
more. What a crash cut off at the end is removed at the next start.
"""

from pathlib import Path

import structlog

from shem.kernel.ids import NodeId, node_id_to_bytes
from shem.wire.relay import NODE_ID_SIZE

log = structlog.get_logger()


class SlotFile:
    """One file, or none at all."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self) -> list[bytes]:
        if self._path is None or not self._path.exists():
            return []
        stored = self._path.read_bytes()
        slots = parse_slots(stored)
        if len(stored) != NODE_ID_SIZE * len(slots):
            self._path.write_bytes(b"".join(slots))
        return slots

    def append(self, node_id: NodeId) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("ab") as file:
                file.write(slot_entry(node_id))
        except OSError as error:
            log.warning("relay.slot_unsaved", reason=str(error))


def parse_slots(stored: bytes) -> list[bytes]:
    """Cut the file into node ids; an entry that a crash cut off is left out."""
    whole = len(stored) - len(stored) % NODE_ID_SIZE
    return [stored[at : at + NODE_ID_SIZE] for at in range(0, whole, NODE_ID_SIZE)]


def slot_entry(node_id: NodeId) -> bytes:
    return node_id_to_bytes(node_id)
