"""Whether manifests are held against the rules (docs/protocol/provider-agent.md §5.8). Pure.

Operators of the known agent can switch the check off, or trust a runtime's network as a whole; the
words are theirs. What an ExeUnit checks cannot be switched off here.
"""

from collections.abc import Sequence
from typing import Final

from shem.kernel.errors import NotSupported, UsageError

EVERYTHING: Final = "all"
SIGNATURES: Final = "manifest_signature_validation"
OF_EXE_UNITS: Final = (
    "manifest_compliance",
    "manifest_script_compliance",
    "manifest_inet_url_compliance",
)
CAPABILITIES: Final = "golem.runtime.capabilities"
INET: Final = "inet"


def manifests_are_checked(disabled: Sequence[str], trusted: Sequence[str]) -> bool:
    """Read `--policy-disable-component` and `--policy-trust-property`."""
    names = {name.strip().lower() for text in disabled for name in text.split(",") if name.strip()}
    for name in sorted(names):
        if name in OF_EXE_UNITS:
            raise NotSupported(f"--policy-disable-component {name}: ExeUnits always check that")
        if name not in (EVERYTHING, SIGNATURES):
            known = f"{EVERYTHING}, {SIGNATURES}"
            raise UsageError(f"--policy-disable-component {name!r} is not known (known: {known})")
    trusts = any(_trusts_inet(part) for text in trusted for part in text.split(","))
    return not names and not trusts


def _trusts_inet(text: str) -> bool:
    """Whether `property` or `property=value|value` trusts the network of runtimes."""
    name, equals, values = text.partition("=")
    listed = [value.strip() for value in values.split("|")]
    return name.strip() == CAPABILITIES and (not equals or INET in listed)
