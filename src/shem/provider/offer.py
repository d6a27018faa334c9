"""The Offer of one runtime (docs/protocol/provider-agent.md §4).

Pure. The price is zero until payments are built; everything a later payment needs (scheme, pricing
model, usage vector, platform with address) is in the offer already.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shem.kernel.errors import UsageError
from shem.kernel.times import NS_PER_S
from shem.provider.config import Hardware, ProviderConfig
from shem.provider.descriptor import Descriptor

USAGE_VECTOR: Final = "golem.com.usage.vector"
PRICED: Final = ("golem.usage.cpu_sec", "golem.usage.duration_sec")
"""Counters that are billed, sorted by name."""
COEFFICIENTS: Final = "golem.com.pricing.model.linear.coeffs"
ACCEPT_TIMEOUT: Final = "golem.com.payment.debit-notes.accept-timeout?"
NOTE_INTERVAL: Final = "golem.com.scheme.payu.debit-note.interval-sec?"
PAYMENT_TIMEOUT: Final = "golem.com.scheme.payu.payment-timeout-sec?"
DEFAULT_ACCEPT_TIMEOUT_S: Final = 240
DEFAULT_NOTE_INTERVAL_S: Final = 120
DEFAULT_PAYMENT_TIMEOUT_S: Final = 120
PAYMENT_PROTOCOL: Final = 3
_NS_PER_MS: Final = NS_PER_S // 1_000


@dataclass(frozen=True, slots=True)
class OfferText:
    """What is published."""

    properties: dict[str, Any]
    constraints: str


def build_offer(
    *,
    config: ProviderConfig,
    hardware: Hardware,
    descriptor: Descriptor,
    template: Mapping[str, Any],
    account: str,
    is_public: bool,
    now_ns: int,
) -> OfferText:
    """Return the offer of one runtime on this machine."""
    own: dict[str, Any] = dict(template["properties"])
    counters = own.get(USAGE_VECTOR)
    if not isinstance(counters, list) or not all(name in counters for name in PRICED):
        raise UsageError(f"runtime {descriptor.name}: its template's {USAGE_VECTOR} lacks {PRICED}")
    capabilities = own.get("golem.runtime.capabilities", [])
    properties = {
        **own,
        **_machine(hardware),
        **_runtime(descriptor),
        **_payment(config.payment_platform, account),
        "golem.node.debug.subnet": config.subnet,
        "golem.node.net.is-public": is_public,
        "golem.srv.caps.multi-activity": True,
        "golem.srv.caps.payload-manifest": "manifest-support" in capabilities,
    }
    if config.node_name is not None:
        properties["golem.node.id.name"] = config.node_name
    return OfferText(properties, _constraints(config.subnet, template.get("constraints"), now_ns))


def _machine(hardware: Hardware) -> dict[str, Any]:
    return {
        "golem.inf.cpu.architecture": hardware.architecture,
        "golem.inf.cpu.cores": hardware.cores,
        "golem.inf.cpu.threads": hardware.threads,
        "golem.inf.mem.gib": hardware.memory_gib,
        "golem.inf.storage.gib": hardware.storage_gib,
    }


def _runtime(descriptor: Descriptor) -> dict[str, Any]:
    named = {f"golem.runtime.{key}": value for key, value in descriptor.properties.items()}
    return {
        **named,
        "golem.runtime.name": descriptor.name,
        "golem.runtime.version": descriptor.version,
    }


def _payment(platform: str, account: str) -> dict[str, Any]:
    return {
        "golem.com.payment.protocol.version": PAYMENT_PROTOCOL,
        f"golem.com.payment.platform.{platform}.address": account,
        "golem.com.scheme": "payu",
        "golem.com.pricing.model": "linear",
        COEFFICIENTS: [0.0 for _ in (*PRICED, "initial")],
        USAGE_VECTOR: list(PRICED),
        ACCEPT_TIMEOUT: DEFAULT_ACCEPT_TIMEOUT_S,
        NOTE_INTERVAL: DEFAULT_NOTE_INTERVAL_S,
        PAYMENT_TIMEOUT: DEFAULT_PAYMENT_TIMEOUT_S,
    }


def _constraints(subnet: str, of_template: object, now_ns: int) -> str:
    clauses = [
        f"(golem.srv.comp.expiration>{now_ns // _NS_PER_MS})",
        f"(golem.node.debug.subnet={subnet})",
    ]
    if isinstance(of_template, str) and of_template.strip():
        clauses.insert(0, of_template.strip())
    return "(&\n  " + "\n  ".join(clauses) + "\n)"
