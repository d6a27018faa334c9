"""Rules about who rents and what it wants to reach (docs/protocol/provider-agent.md §5.2, §5.3,
§5.8, §5.9). Pure.

A node descriptor in the demand says, signed by a certificate, who the requestor is and what it may
do. A payload manifest that wants nothing of the internet needs no permission; one that does needs
one of three grants, and a runtime that has a way out.
"""

from typing import Final

from shem.kernel.errors import UsageError
from shem.provider.access import Mode
from shem.provider.verdicts import Negotiation, Reject, Verdict
from shem.rest.endwhen import names_of
from shem.rest.manifest import MANIFEST, Outbound, decode_manifest

CAPABILITIES: Final = "golem.runtime.capabilities"
INET: Final = "inet"
"""The runtime has the whole internet, as far as a manifest grants it."""
OUTBOUND_PROXY: Final = "outbound-proxy"
"""The runtime has a proxy for TCP (docs/protocol/extensions.md, "A way out")."""
REASON_CHARS_MAX: Final = 1_000


def refuse_blacklisted(negotiation: Negotiation) -> Verdict:
    """Whom the operator has blacklisted does not rent here."""
    listed = negotiation.limits.access.blacklist
    if not listed.enabled:
        return None
    who = negotiation.requestor.lower()
    if who in listed.identity:
        return Reject(f"Requestor's NodeId is on the blacklist: {who}", is_final=True)
    return None


def require_allowed(negotiation: Negotiation) -> Verdict:
    """Where the operator names those who may rent, no one else does."""
    listed = negotiation.limits.access.allow_only
    if not listed.enabled or negotiation.requestor.lower() in listed.identity:
        return None
    return Reject("Requestor is not on the allow-only list", is_final=True)


def judge_manifest(negotiation: Negotiation) -> Verdict:
    """A manifest must be readable, and what it wants to reach must be granted."""
    if MANIFEST not in negotiation.demand:
        return None
    try:
        manifest = decode_manifest(negotiation.demand[MANIFEST])
    except UsageError as error:
        return Reject(f"invalid manifest: {error.message}"[:REASON_CHARS_MAX], is_final=True)
    if manifest.expires_ns <= negotiation.now_ns:
        return Reject("invalid manifest: it has expired", is_final=True)
    if not manifest.outbound.is_requested:
        return None
    if negotiation.limits.manifests_are_checked:
        refusal = _refusal(negotiation, manifest.outbound)
        if refusal is not None:
            return Reject(refusal[:REASON_CHARS_MAX], is_final=True)
    return _require_way_out(negotiation, manifest.outbound)


def _refusal(negotiation: Negotiation, outbound: Outbound) -> str | None:
    """Say why access is not granted; None when any of the rules grants it."""
    if not negotiation.limits.access.outbound.enabled:
        return "outbound is disabled"
    reasons = []
    for rule in (_everyone,):
        reason = rule(negotiation, outbound)
        if reason is None:
            return None
        reasons.append(reason)
    return "Outbound rejected because: " + " ; ".join(reasons)


def _everyone(negotiation: Negotiation, outbound: Outbound) -> str | None:
    reason = _by_mode(negotiation, negotiation.limits.access.outbound.everyone, outbound)
    return None if reason is None else f"Everyone {reason}"


def _by_mode(negotiation: Negotiation, mode: Mode, outbound: Outbound) -> str | None:
    """Apply the mode of a rule: say why it does not grant this."""
    if mode is Mode.NONE:
        return "rule is disabled"
    permits = negotiation.limits.whitelist.permits
    if mode is Mode.ALL or (
        not outbound.unrestricted and all(permits(wanted.host) for wanted in outbound.destinations)
    ):
        return None
    return "rule didn't match whitelist"


def _require_way_out(negotiation: Negotiation, outbound: Outbound) -> Verdict:
    """What is granted must be possible: nobody pays for a network that is not there."""
    able = names_of(negotiation.offer.get(CAPABILITIES))
    if INET in able:
        return None
    if OUTBOUND_PROXY not in able:
        return Reject("outbound is not offered by this runtime", is_final=True)
    if any(wanted.scheme == "udp" for wanted in outbound.destinations):
        return Reject("outbound over udp is not offered by this runtime", is_final=True)
    return None
