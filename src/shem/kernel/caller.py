"""Who calls, and how well that is proven.

Every message that reaches a service carries a `Caller`; `permissions.decide` weighs it. The net
layer is the only one that makes remote callers, the REST layer the only one that makes local ones.
"""

from dataclasses import dataclass
from enum import IntEnum

from shem.kernel.ids import NodeId


class Assurance(IntEnum):
    """How well the caller's node id is proven; higher is better."""

    VOUCHED = 1
    """A relay says so: relayed traffic carries only the sender's slot."""
    PROVEN = 2
    """The peer signed our challenge in a direct session; its packets are not authenticated."""
    ENCRYPTED = 3
    """An encrypted channel, on which every packet is authenticated, relayed or not."""
    LOCAL = 4
    """An application key of this node, or a process on this node's own bus."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A node id together with its proof."""

    node_id: NodeId
    assurance: Assurance

    @property
    def is_local(self) -> bool:
        return self.assurance is Assurance.LOCAL
