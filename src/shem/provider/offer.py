"""The Offer of one preset (docs/protocol/provider-agent.md §4). Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shem.kernel.errors import UsageError
from shem.kernel.times import NS_PER_S
from shem.provider.config import DEFAULT_SUBNET, Globals, ProviderConfig, Terms
from shem.provider.descriptor import Descriptor
from shem.provider.hardware import Machine, Resources
from shem.provider.presets import Preset
from shem.provider.pricing import Pricing, pricing_of
from shem.rest.endwhen import ABSENCE_ACTIONS, CAN_END_WHEN, CAN_ON_ABSENCE, names_of
from shem.rest.terms import MAX_ABSENCE, RETENTION, RETENTION_MAX

USAGE_VECTOR: Final = "golem.com.usage.vector"
COEFFICIENTS: Final = "golem.com.pricing.model.linear.coeffs"
ACCEPT_TIMEOUT: Final = "golem.com.payment.debit-notes.accept-timeout?"
NOTE_INTERVAL: Final = "golem.com.scheme.payu.debit-note.interval-sec?"
PAYMENT_TIMEOUT: Final = "golem.com.scheme.payu.payment-timeout-sec?"
THREADS: Final = "golem.inf.cpu.threads"
MEMORY_GIB: Final = "golem.inf.mem.gib"
STORAGE_GIB: Final = "golem.inf.storage.gib"
PAYMENT_PROTOCOL: Final = 3
_NS_PER_MS: Final = NS_PER_S // 1_000


@dataclass(frozen=True, slots=True)
class OfferText:
    """What is published."""

    properties: dict[str, Any]
    clauses: tuple[str, ...]

    def constraints(self, now_ns: int) -> str:
        """Return what a Demand must fulfil: also that it has not expired now."""
        future = f"(golem.srv.comp.expiration>{now_ns // _NS_PER_MS})"
        return "(&\n  " + "\n  ".join((*self.clauses, future)) + "\n)"


def build_offer(
    *,
    config: ProviderConfig,
    who: Globals,
    machine: Machine,
    share: Resources,
    preset: Preset,
    descriptor: Descriptor,
    template: Mapping[str, Any],
    account: str,
    is_public: bool,
) -> OfferText:
    """Return the offer of one preset: one agreement's share of this machine, and its price."""
    own: dict[str, Any] = dict(template["properties"])
    subnet = who.subnet or DEFAULT_SUBNET
    capabilities = names_of(own.get("golem.runtime.capabilities"))
    properties = {
        **own,
        **_machine(machine, share),
        **_runtime(descriptor),
        **_payment(config.payment_platforms, account),
        **_prices(pricing_of(preset, measured(descriptor, own))),
        **_terms(config.terms, can_finish=CAN_END_WHEN in own),
        "golem.node.debug.subnet": subnet,
        "golem.node.net.is-public": is_public,
        "golem.srv.caps.multi-activity": True,
        "golem.srv.caps.payload-manifest": "manifest-support" in capabilities,
    }
    if who.node_name is not None:
        properties["golem.node.id.name"] = who.node_name
    return OfferText(properties, _clauses(subnet, template.get("constraints")))


def measured(descriptor: Descriptor, template: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the counters that may cost something with this runtime."""
    counters = template.get(USAGE_VECTOR)
    if not isinstance(counters, list) or not all(isinstance(name, str) for name in counters):
        raise UsageError(f"runtime {descriptor.name}: its template has no {USAGE_VECTOR}")
    return tuple({*counters, *descriptor.priced})


def is_free(properties: Mapping[str, Any]) -> bool:
    """Whether nothing under this offer costs anything."""
    prices = properties.get(COEFFICIENTS)
    return isinstance(prices, list) and not any(prices)


def _machine(machine: Machine, share: Resources) -> dict[str, Any]:
    return {
        "golem.inf.cpu.architecture": machine.architecture,
        "golem.inf.cpu.cores": machine.cores,
        THREADS: share.threads,
        MEMORY_GIB: share.memory_gib,
        STORAGE_GIB: share.storage_gib,
    }


def _runtime(descriptor: Descriptor) -> dict[str, Any]:
    named = {f"golem.runtime.{key}": value for key, value in descriptor.properties.items()}
    return {
        **named,
        "golem.runtime.name": descriptor.name,
        "golem.runtime.version": descriptor.version,
    }


def _payment(platforms: Sequence[str], account: str) -> dict[str, Any]:
    return {
        "golem.com.payment.protocol.version": PAYMENT_PROTOCOL,
        **{f"golem.com.payment.platform.{name}.address": account for name in platforms},
        "golem.com.scheme": "payu",
    }


def _prices(pricing: Pricing) -> dict[str, Any]:
    return {
        "golem.com.pricing.model": "linear",
        COEFFICIENTS: list(pricing.coefficients),
        USAGE_VECTOR: list(pricing.counters),
    }


def _terms(terms: Terms, *, can_finish: bool) -> dict[str, Any]:
    """Return what is negotiable: the requestor takes it, asks for other values, or goes without."""
    actions = ABSENCE_ACTIONS if can_finish else ABSENCE_ACTIONS[:1]
    return {
        ACCEPT_TIMEOUT: int(terms.accept_timeout_s),
        NOTE_INTERVAL: int(terms.note_interval_s),
        PAYMENT_TIMEOUT: int(terms.payment_timeout_s),
        MAX_ABSENCE: int(terms.absence_max_s),
        CAN_ON_ABSENCE: list(actions),
        RETENTION: int(min(terms.retention_s, terms.retention_max_s)),
        RETENTION_MAX: int(terms.retention_max_s),
    }


def _clauses(subnet: str, of_template: object) -> tuple[str, ...]:
    ours = f"(golem.node.debug.subnet={subnet})"
    if isinstance(of_template, str) and of_template.strip():
        return of_template.strip(), ours
    return (ours,)
