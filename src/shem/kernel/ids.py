"""The ids of the Golem protocols, as types, and the one place where their text is checked.

Sources: docs/protocol/identity.md (node ids), docs/protocol/market.md (subscription, proposal and
agreement ids), docs/protocol/activity.md (activity and batch ids).
"""

import re
from typing import Final, NewType

from shem.kernel.errors import UsageError

NodeId = NewType("NodeId", str)
"""`0x` and 40 lower-case hex digits: the Ethereum address of a node's public key."""
SubscriptionId = NewType("SubscriptionId", str)
"""32 hex digits, `-`, 64 hex digits: an Offer or a Demand."""
ProposalId = NewType("ProposalId", str)
"""`R-` or `P-` and 64 hex digits; the letter is the role of the node that stores the row."""
AgreementId = NewType("AgreementId", str)
"""64 hex digits; on the wire with the letter of a ProposalId."""
ActivityId = NewType("ActivityId", str)
"""32 hex digits."""
BatchId = NewType("BatchId", str)
"""32 hex digits."""
AppKey = NewType("AppKey", str)
"""The secret of a REST client."""

ZERO_NODE: Final = NodeId("0x" + "0" * 40)
"""How clients name the relay, which never proves an identity."""

_NODE_ID: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_HEX_32: Final = re.compile(r"[0-9a-f]{32}")


def parse_node_id(text: str) -> NodeId:
    """Return `text` in its canonical lower-case form; UsageError when it is no node id."""
    if not _NODE_ID.fullmatch(text):
        raise UsageError(f"{text!r} is not a node id (0x and 40 hex digits)")
    return NodeId(text.lower())


def node_id_from_bytes(raw: bytes) -> NodeId:
    """Return the node id of its 20 raw bytes."""
    if len(raw) != 20:
        raise UsageError(f"a node id has 20 bytes, not {len(raw)}")
    return NodeId("0x" + raw.hex())


def node_id_to_bytes(node_id: NodeId) -> bytes:
    return bytes.fromhex(node_id[2:])


def parse_activity_id(text: str) -> ActivityId:
    """Return an activity id; UsageError unless it is 32 lower-case hex digits."""
    if not _HEX_32.fullmatch(text):
        raise UsageError(f"activity id {text!r} is not 32 lower-case hex digits")
    return ActivityId(text)


def parse_batch_id(text: str) -> BatchId:
    """Return a client-chosen batch id; UsageError unless it is 32 lower-case hex digits."""
    if not _HEX_32.fullmatch(text):
        raise UsageError(f"batch id {text!r} is not 32 lower-case hex digits")
    return BatchId(text)
