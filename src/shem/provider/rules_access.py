"""Rules about who rents and what it wants to reach (docs/protocol/provider-agent.md §5.2, §5.3,
§5.8, §5.9). Pure.

A node descriptor in the demand says, signed by a certificate, who the requestor is and what it may
do. A payload manifest that wants nothing of the internet needs no permission; one that does needs
one of three grants, and a runtime that has a way out.
"""

import json
from collections.abc import Sequence
from typing import Final

from shem.exeunit.agreement import expand
from shem.exeunit.runtimes.choice import CAPABILITIES, OUTBOUND_PROXY
from shem.kernel.errors import UsageError
from shem.provider.access import AccessList, GrantName, Mode
from shem.provider.certificates import NodeDescriptor, NotSound, read_descriptor
from shem.provider.verdicts import Negotiation, Properties, Reject, Verdict
from shem.provider.x509 import SignedText, require_signed
from shem.rest.endwhen import names_of
from shem.rest.manifest import (
    CERTIFICATE,
    MANIFEST,
    NODE_DESCRIPTOR,
    SIGNATURE,
    SIGNATURE_ALGORITHM,
    Outbound,
    decode_manifest,
)

INET: Final = "inet"
"""The runtime has the whole internet, as far as a manifest grants it."""
REASON_CHARS_MAX: Final = 1_000


def refuse_blacklisted(negotiation: Negotiation) -> Verdict:
    """Whom the operator has blacklisted does not rent here, nor who proves nothing."""
    listed = negotiation.limits.access.blacklist
    if not listed.enabled:
        return None
    who = negotiation.requestor.lower()
    if who in listed.identity:
        return Reject(f"Requestor's NodeId is on the blacklist: {who}", is_final=True)
    try:
        found = _is_certified(negotiation, listed)
    except NotSound as error:
        return _suspicious("Blacklist", who, error)
    if found:
        return Reject(f"Requestor's certificate is on the blacklist: {who}", is_final=True)
    return None


def require_allowed(negotiation: Negotiation) -> Verdict:
    """Where the operator names those who may rent, no one else does."""
    listed = negotiation.limits.access.allow_only
    who = negotiation.requestor.lower()
    if not listed.enabled or who in listed.identity:
        return None
    try:
        found = _is_certified(negotiation, listed)
    except NotSound as error:
        return _suspicious("Allow-only", who, error)
    if found:
        return None
    if found is None:
        return Reject("Requestor is not on the allow-only list", is_final=True)
    text = f"Allow-only rule: Requestor [{who}] is not on the allow-only list"
    return Reject(text, is_final=True)


def _is_certified(negotiation: Negotiation, listed: AccessList) -> bool | None:
    """Whether a listed certificate stands behind the requestor; None: it shows no descriptor."""
    descriptor = _descriptor(negotiation)
    return None if descriptor is None else bool(set(descriptor.chain) & set(listed.certified))


def _suspicious(rule: str, who: str, error: NotSound) -> Reject:
    reason = f"rejected due to suspicious behavior: {error.message}"
    text = f"{rule} rule: Requestor [{who}] {reason}"
    return Reject(text[:REASON_CHARS_MAX], is_final=True)


def _descriptor(negotiation: Negotiation) -> NodeDescriptor | None:
    """Return the requestor's node descriptor; NotSound when it is not right, or another's."""
    value = _descriptor_value(negotiation.demand)
    if value is None:
        return None
    found = read_descriptor(value, negotiation.now_ns)
    if found.node_id != negotiation.requestor.lower():
        raise NotSound(f"Node ids mismatch: the descriptor is that of {found.node_id}")
    return found


def _descriptor_value(demand: Properties) -> object:
    """Return the descriptor as it was signed: properties come flat from the market."""
    value = demand.get(NODE_DESCRIPTOR)
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    prefix = NODE_DESCRIPTOR + "."
    inner = {
        key.removeprefix(prefix): item for key, item in demand.items() if key.startswith(prefix)
    }
    return expand(inner) if inner and value is None else value


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
    for rule in (_everyone, _audited_payload, _partner):
        reason = rule(negotiation, outbound)
        if reason is None:
            return None
        reasons.append(reason)
    return "Outbound rejected because: " + " ; ".join(reasons)


def _everyone(negotiation: Negotiation, outbound: Outbound) -> str | None:
    reason = _by_mode(negotiation, negotiation.limits.access.outbound.everyone, outbound)
    return None if reason is None else f"Everyone {reason}"


def _audited_payload(negotiation: Negotiation, outbound: Outbound) -> str | None:
    """Whoever an auditor's certificate vouches for has signed the manifest."""
    limits = negotiation.limits
    signed = _signed_manifest(negotiation.demand)
    if signed is None:
        return "Audited-Payload rule requires manifest signature"
    try:
        chain = require_signed(signed, limits.keystore.anchors, negotiation.now_ns)
    except NotSound as error:
        return f"Audited-Payload rule: {error.message}"
    return _by_chain(negotiation, "audited-payload", "Audited-Payload", chain, outbound)


def _partner(negotiation: Negotiation, outbound: Outbound) -> str | None:
    """A partner's certificate vouches for the requestor."""
    try:
        descriptor = _descriptor(negotiation)
    except NotSound as error:
        return f"Partner {error.message}"
    if descriptor is None:
        return "Partner rule requires node descriptor"
    permitted = descriptor.permissions.outbound
    if permitted is not None:
        if outbound.unrestricted:
            return "Partner rule: the certificate allows only for specific urls"
        for wanted in outbound.destinations:
            if wanted.url not in permitted:
                return f"Partner rule forbidden url requested: {wanted.url}"
    return _by_chain(negotiation, "partner", "Partner", descriptor.chain, outbound)


def _by_chain(
    negotiation: Negotiation,
    name: GrantName,
    shown: str,
    chain: Sequence[str],
    outbound: Outbound,
) -> str | None:
    """Apply the grant that is nearest to the signer."""
    grants = negotiation.limits.access.outbound.of(name)
    for certificate in chain:
        if certificate in grants:
            reason = _by_mode(negotiation, grants[certificate].mode, outbound)
            return None if reason is None else f"{shown} {reason}"
    shorts = ", ".join(certificate[:8] for certificate in chain)
    return f"{shown} rule whole chain of cert_ids is not trusted: [{shorts}]"


def _signed_manifest(demand: Properties) -> SignedText | None:
    names = (MANIFEST, SIGNATURE, SIGNATURE_ALGORITHM, CERTIFICATE)
    texts = [value for name in names if isinstance(value := demand.get(name), str)]
    return SignedText(*texts) if len(texts) == len(names) else None


def _by_mode(negotiation: Negotiation, mode: Mode, outbound: Outbound) -> str | None:
    """Apply the mode of a rule: say why it does not grant this."""
    if mode is Mode.NONE:
        return "rule is disabled"
    hosts = (wanted.host for wanted in outbound.destinations)
    if mode is Mode.ALL or (
        not outbound.unrestricted and negotiation.limits.whitelist.permits(hosts)
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
