"""The one place that decides who may do what (GAP-24, `docs/protocol/gap-24.md`).

Every call, local or remote, owner or stranger, asks here first, with the caller as the net or the
REST layer proved it and the resource already resolved to its agreement. The provider's node is the
authority; a requestor's node asks too, so that a program gets its refusal at once.

Rules, in order:
1. the caller's assurance must reach what `MIN_ASSURANCE` asks for the action's namespace;
2. `node:` actions belong to callers on this node;
3. `req:` actions belong to the agreement's requestor, `prov:` actions to its provider;
4. anything else is refused. Access control lists are a later part: to pass one is an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import Denied, NotSupported
from shem.kernel.ids import NodeId


class Action(StrEnum):
    """What can be done; `req:` names are GAP-24's, the others our own (docs/actions.md)."""

    GET_AGREEMENT = "req:getAgreement"
    COLLECT_AGREEMENT_EVENTS = "req:collectAgreementEvents"
    TERMINATE_AGREEMENT = "req:terminateAgreement"
    CONFIRM_AGREEMENT = "req:confirmAgreement"
    CANCEL_AGREEMENT = "req:cancelAgreement"
    CREATE_ACTIVITY = "req:createActivity"
    DESTROY_ACTIVITY = "req:destroyActivity"
    EXEC = "req:exec"
    GET_EXEC_BATCH_RESULTS = "req:getExecBatchResults"
    GET_ACTIVITY_STATE = "req:getActivityState"
    GET_ACTIVITY_USAGE = "req:getActivityUsage"
    GET_RUNNING_COMMAND = "req:getRunningCommand"
    PROV_GET_AGREEMENT = "prov:getAgreement"
    PROV_COLLECT_AGREEMENT_EVENTS = "prov:collectAgreementEvents"
    PROV_APPROVE_AGREEMENT = "prov:approveAgreement"
    PROV_REJECT_AGREEMENT = "prov:rejectAgreement"
    PROV_TERMINATE_AGREEMENT = "prov:terminateAgreement"
    PROV_GET_ACTIVITY_STATE = "prov:getActivityState"
    PROV_GET_ACTIVITY_USAGE = "prov:getActivityUsage"
    PROV_SET_ACTIVITY_STATE = "prov:setActivityState"
    PROV_COLLECT_ACTIVITY_EVENTS = "prov:collectActivityEvents"
    NODE_PUBLISH = "node:publish"
    NODE_NEGOTIATE = "node:negotiate"
    NODE_REPORT_ACTIVITY = "node:reportActivity"
    NODE_CONTROL = "node:control"


MIN_ASSURANCE: Final[dict[str, Assurance]] = {
    "req": Assurance.VOUCHED,
    "prov": Assurance.VOUCHED,
    "node": Assurance.LOCAL,
}
"""The least proof per namespace: one table, to be raised when sessions are encrypted."""


@dataclass(frozen=True, slots=True)
class Resource:
    """The agreement that an action touches, by its two owners; both None for the node itself."""

    agreement_id: str
    requestor: NodeId | None
    provider: NodeId | None


NODE: Final = Resource(agreement_id="", requestor=None, provider=None)
"""The node itself, for `node:` actions."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, with the reason a refused caller is told."""

    allowed: bool
    reason: str

    def require(self) -> None:
        """Raise Denied unless allowed."""
        if not self.allowed:
            raise Denied(f"Forbidden: {self.reason}")


ALLOWED: Final = Decision(allowed=True, reason="owner")


def decide(
    caller: Caller,
    action: Action,
    resource: Resource,
    *,
    request_digest: bytes | None = None,
    attestations: Sequence[bytes] = (),
    acl: object | None = None,
    now_ns: int,
) -> Decision:
    """Say whether `caller` may do `action` to `resource` at `now_ns`.

    `request_digest` is what an attestation would have to cover; `attestations` came with the
    message. Both, and `acl`, have their place here although no list exists yet.
    """
    del request_digest, now_ns
    if acl is not None or attestations:
        raise NotSupported("agreement permission lists are not supported yet")
    namespace = action.partition(":")[0]
    least = MIN_ASSURANCE[namespace]
    if caller.assurance < least:
        return Decision(False, f"caller {caller.node_id} is not proven well enough for {action}")
    if namespace == "node":
        return ALLOWED
    owner = resource.requestor if namespace == "req" else resource.provider
    if owner is not None and caller.node_id == owner:
        return ALLOWED
    return Decision(False, f"caller: {caller.node_id} is not authorized: {owner}")
