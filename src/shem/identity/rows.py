"""The stored identities: their keystores, aliases, and which is the default one.

Writes are buffered in the caller's unit of work; one changes identities at a time.
"""

from typing import Final

from shem.kernel.errors import NotFound
from shem.kernel.ids import NodeId
from shem.store.unit import Row, Store, Unit

IDENTITIES_MAX: Final = 64
"""As many as peers read in one handshake."""

_SELECT: Final = "SELECT node_id, keystore, alias, is_default, is_deleted FROM identity"
_EVERY: Final = f"{_SELECT} ORDER BY is_default DESC, is_deleted, created_ns, node_id LIMIT :limit"
_ADD: Final = """
    INSERT INTO identity (node_id, keystore, alias, is_default, is_deleted, created_ns)
    VALUES (:node_id, :keystore, :alias, :is_default, 0, :created_ns)
    ON CONFLICT (node_id) DO UPDATE SET keystore = excluded.keystore, alias = excluded.alias,
        is_default = excluded.is_default, is_deleted = 0
        WHERE identity.is_deleted = 1
"""
_DROP: Final = """
    UPDATE identity SET is_deleted = 1, keystore = '', alias = NULL WHERE node_id = :node_id
"""


def not_ours(node_id: NodeId) -> NotFound:
    return NotFound(f"identity {node_id} is not one of this node")


async def every(store: Store) -> list[Row]:
    """Return the default identity, then the others, then dropped ones."""
    return await store.fetch(_EVERY, limit=IDENTITIES_MAX)


async def one(source: Store | Unit, node_id: NodeId, *, dropped_too: bool = False) -> Row:
    """Return an identity; NotFound when there is none, or it was dropped."""
    rows = await source.fetch(f"{_SELECT} WHERE node_id = :node_id", node_id=node_id)
    if not rows or (rows[0]["is_deleted"] and not dropped_too):
        raise not_ours(node_id)
    return rows[0]


def add(
    unit: Unit,
    node_id: NodeId,
    keystore: str,
    *,
    alias: str | None,
    is_default: bool,
    created_ns: int,
) -> None:
    """Add an identity, or revive a dropped one; Conflict rather than overwrite a keystore."""
    if is_default:
        _clear_default(unit)
    unit.execute(
        _ADD,
        expect=1,
        node_id=node_id,
        keystore=keystore,
        alias=alias,
        is_default=is_default,
        created_ns=created_ns,
    )


def rename(unit: Unit, node_id: NodeId, alias: str) -> None:
    unit.execute(
        "UPDATE identity SET alias = :alias WHERE node_id = :node_id", alias=alias, node_id=node_id
    )


def make_default(unit: Unit, node_id: NodeId) -> None:
    _clear_default(unit)
    unit.execute("UPDATE identity SET is_default = 1 WHERE node_id = :node_id", node_id=node_id)


def replace_keystore(unit: Unit, node_id: NodeId, keystore: str) -> None:
    unit.execute(
        "UPDATE identity SET keystore = :keystore WHERE node_id = :node_id",
        keystore=keystore,
        node_id=node_id,
    )


def drop(unit: Unit, node_id: NodeId) -> None:
    """Erase the keystore and free the alias; the row stays and says that it was dropped."""
    unit.execute(_DROP, node_id=node_id)


def _clear_default(unit: Unit) -> None:
    unit.execute("UPDATE identity SET is_default = 0 WHERE is_default = 1")
