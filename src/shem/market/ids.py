"""Ids of the market: how they are hashed, read and written.

docs/protocol/market.md §2. Pure. Hashes are SHA3-256 over texts that contain a time **without its
seconds**: peers recompute it, so it stays as it is.

A proposal or agreement is kept under the letter of the role this node plays (`R-`, `P-`); REST
shows agreements without it.
"""

import hashlib
import re
from enum import StrEnum
from typing import Final

from shem.kernel.errors import UsageError
from shem.kernel.ids import AgreementId, NodeId, ProposalId, SubscriptionId, node_id_to_bytes
from shem.kernel.times import NS_PER_S, to_naive

_HEX: Final = re.compile(r"[0-9a-fA-F]*")
_RANDOM_DIGITS: Final = 32
_HASH_DIGITS: Final = 64


class Role(StrEnum):
    """What this node plays in a negotiation; the value is REST's word."""

    REQUESTOR = "Requestor"
    PROVIDER = "Provider"

    @property
    def letter(self) -> str:
        return self.value[0]

    @property
    def other(self) -> "Role":
        return Role.PROVIDER if self is Role.REQUESTOR else Role.REQUESTOR


def hashed_time(ns: int) -> str:
    """Return the time text that goes into hashes: `YYYY-MM-DD HH:MM:NNNNNNNNN`."""
    seconds, rest = divmod(ns, NS_PER_S)
    moment = to_naive(seconds * NS_PER_S)
    return f"{moment[:10]} {moment[11:16]}:{rest:09d}"


def subscription_hash(
    properties: str, constraints: str, node_id: NodeId, created_ns: int, expires_ns: int
) -> str:
    """Return the part of a subscription id that its content determines."""
    digest = hashlib.sha3_256()
    digest.update(properties.encode())
    digest.update(constraints.encode())
    digest.update(node_id_to_bytes(node_id))
    digest.update(hashed_time(created_ns).encode())
    digest.update(hashed_time(expires_ns).encode())
    return digest.hexdigest()


def negotiation_hash(offer_id: SubscriptionId, demand_id: SubscriptionId, created_ns: int) -> str:
    """Return the hash of a proposal or of an agreement, which is hashed alike."""
    text = f"{offer_id}{demand_id}{hashed_time(created_ns)}"
    return hashlib.sha3_256(text.encode()).hexdigest()


def new_subscription_id(random_hex: str, content_hash: str) -> SubscriptionId:
    return SubscriptionId(f"{random_hex}-{content_hash}")


def proposal_id(role: Role, content_hash: str) -> ProposalId:
    return ProposalId(f"{role.letter}-{content_hash}")


def for_role(wire_id: str, role: Role) -> ProposalId:
    """Return the id under our own letter: a sender uses either (§2.3)."""
    return ProposalId(f"{role.letter}-{wire_id[2:]}")


def lettered(agreement_id: AgreementId, role: Role) -> str:
    """Return the form of an agreement id on the wire and in messages."""
    return f"{role.letter}-{agreement_id}"


def bare(wire_id: str) -> AgreementId:
    return AgreementId(wire_id[2:])


def parse_subscription_id(text: str) -> SubscriptionId:
    """Check the syntax of an Offer's or Demand's id; the words are those clients know."""
    parts = text.split("-")
    if len(parts) != 2:
        raise UsageError(f"Subscription id [{text}] has invalid format.")
    if not all(_HEX.fullmatch(part) for part in parts):
        raise UsageError(f"Subscription id [{text}] contains non hexadecimal characters.")
    if [len(part) for part in parts] != [_RANDOM_DIGITS, _HASH_DIGITS]:
        raise UsageError(f"Subscription id [{text}] has invalid length. Should be |32|-|64|")
    return SubscriptionId(text)


def parse_proposal_id(text: str) -> ProposalId:
    """Check the syntax of a lettered id."""
    parts = text.split("-")
    if len(parts) != 2:
        raise UsageError(f"Id [{text}] has invalid format.")
    if parts[0] not in ("R", "P"):
        raise UsageError(f"Id [{parts[0]}] has invalid owner type.")
    _check_hash(parts[1])
    return ProposalId(text)


def parse_agreement_id(text: str) -> AgreementId:
    """Check the syntax of REST's bare agreement id."""
    try:
        _check_hash(text)
    except UsageError as error:
        raise UsageError(f"Invalid Agreement id. {error.message}") from error
    return AgreementId(text)


def _check_hash(text: str) -> None:
    if not _HEX.fullmatch(text):
        raise UsageError(f"Id [{text}] contains non hexadecimal characters.")
    if len(text) != _HASH_DIGITS:
        raise UsageError(f"Id [{text}] hash has invalid length. Should be |64|")
