"""The identities that a node proves to others, the default one first; they come and go as it runs.

The default one stays as long as the net does: it is the node's name. Handshakes take what is here
when they sign; who was proven with what stands with the session or channel (docs/protocol/net.md
§1.1, docs/protocol/gsb-identity.md §3.1).
"""

from collections.abc import Iterable, Iterator

from shem.identity.keys import PrivateKey
from shem.kernel.errors import UsageError
from shem.kernel.ids import NodeId
from shem.wire.relay import IDENTITIES_MAX


class Keyring:
    """See the module."""

    def __init__(self, keys: Iterable[PrivateKey]) -> None:
        self._keys: tuple[PrivateKey, ...] = ()
        self._ids: frozenset[NodeId] = frozenset()
        self._take((*self._keys, *keys))

    def __iter__(self) -> Iterator[PrivateKey]:
        return iter(self._keys)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._ids

    @property
    def keys(self) -> tuple[PrivateKey, ...]:
        """All keys as they are now."""
        return self._keys

    @property
    def ids(self) -> frozenset[NodeId]:
        return self._ids

    @property
    def default_id(self) -> NodeId:
        return self._keys[0].node_id

    def add(self, key: PrivateKey) -> bool:
        """Take a key; tell whether it is a new one. UsageError beyond what peers read."""
        if key.node_id in self._ids:
            return False
        if len(self._keys) >= IDENTITIES_MAX:
            raise UsageError(f"a node has at most {IDENTITIES_MAX} identities on the net")
        self._take((*self._keys, key))
        return True

    def remove(self, node_id: NodeId) -> bool:
        """Drop a key, unless it is the default one; tell whether anything changed."""
        if node_id not in self._ids or node_id == self.default_id:
            return False
        self._take(tuple(key for key in self._keys if key.node_id != node_id))
        return True

    def _take(self, keys: tuple[PrivateKey, ...]) -> None:
        self._keys = keys
        self._ids = frozenset(key.node_id for key in keys)
