"""What is told about identities and application keys, and why a key cannot be used or dropped."""

from dataclasses import dataclass

from shem.kernel.errors import Denied, UsageError
from shem.kernel.ids import AppKey, NodeId


class KeyLocked(Denied):
    """The identity is this node's own, and its password has not been given."""

    code = "identity-locked"

    def __init__(self, node_id: NodeId) -> None:
        super().__init__(f"key locked: identity {node_id} needs its password first")


class DefaultKept(UsageError):
    """The default identity cannot be dropped: another must be made the default first."""

    code = "default-identity"

    def __init__(self) -> None:
        super().__init__("the default identity cannot be dropped")


@dataclass(frozen=True, slots=True)
class Principal:
    """For whom a REST client acts."""

    identity: NodeId
    name: str
    role: str


@dataclass(frozen=True, slots=True)
class IdentityInfo:
    """What is told about an identity."""

    node_id: NodeId
    alias: str | None
    is_locked: bool
    is_default: bool
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class AppKeyInfo:
    """What is told about an application key, the key included; it never shows in logs."""

    name: str
    key: AppKey
    role: str
    identity: NodeId
    created_ns: int
    allow_origins: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"AppKeyInfo({self.name!r}, identity={self.identity})"
