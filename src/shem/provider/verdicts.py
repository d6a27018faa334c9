"""What a negotiation rule sees, and what it can say. Pure."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shem.provider.access import Access
from shem.provider.config import Terms
from shem.provider.keystore import Keystore
from shem.provider.whitelist import Whitelist

Properties = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows."""

    platforms: tuple[str, ...]
    terms: Terms = field(default_factory=Terms)
    access: Access = field(default_factory=Access)
    whitelist: Whitelist = field(default_factory=Whitelist)
    keystore: Keystore = field(default_factory=Keystore)
    manifests_are_checked: bool = True
    """Whether the rules about the internet apply (`--policy-…`)."""


@dataclass(frozen=True, slots=True)
class Negotiation:
    """One demand and our side of it."""

    demand: Properties
    offer: Properties
    """Our side so far."""
    limits: Limits
    now_ns: int
    requestor: str = ""
    shortage: str | None = None
    """Why this machine cannot hold one more agreement; None: it can."""


@dataclass(frozen=True, slots=True)
class Reject:
    """No, and why; `is_final` says that asking again is useless."""

    message: str
    is_final: bool

    def reason(self) -> dict[str, Any]:
        return {"message": self.message, "golem.proposal.rejection.is-final": self.is_final}


@dataclass(frozen=True, slots=True)
class Change:
    """Yes, if our side is changed so; None removes a property."""

    properties: Mapping[str, Any]


Verdict = Reject | Change | None
"""None: agreed as it stands."""
Rule = Callable[[Negotiation], Verdict]


def settle(negotiation: Negotiation, name: str, value: object) -> Verdict:
    """Take a value into our side; None takes the property out."""
    if negotiation.offer.get(name) == value:
        return None
    return Change({name: value})


def seconds(properties: Properties, name: str) -> tuple[int | None, Reject | None]:
    """Read whole seconds: the value, or why it is none."""
    value = properties.get(name)
    if value is None:
        return None, None
    found = whole(value)
    if found is None:
        return None, Reject(f"{name} must be whole seconds, not {value!r}", is_final=True)
    return found, None


def whole(value: object) -> int | None:
    """Return a whole number that may be written as a float, as some encoders do."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value)


def prices(value: object) -> list[float] | None:
    """Return a list of finite prices, or None when it is none."""
    if not isinstance(value, list):
        return None
    if any(isinstance(item, bool) or not isinstance(item, int | float) for item in value):
        return None
    return value if all(math.isfinite(item) for item in value) else None
