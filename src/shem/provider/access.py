"""Who may rent here, and what its programs may reach: `rules.json` (docs/protocol/
provider-agent.md §5.9).

The file is that of other provider agents. Requestors are listed by node id, or by a certificate
that the node descriptor in their demand hangs from. Access to the internet is granted to everyone,
to payloads that an auditor has signed (X.509), and to partners (Golem certificates).
"""

from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog

from shem.kernel.errors import ShemError, UsageError
from shem.kernel.ids import parse_node_id
from shem.provider.files import read_file, write_file

FILE_NAME: Final = "rules.json"
IDENTITIES_MAX: Final = 10_000
CERTIFICATES_MAX: Final = 1_000
REMEDY: Final = "correct it, or move it away and use `shem provider rule`"

ListName = Literal["blacklist", "allow-only"]
GrantName = Literal["audited-payload", "partner"]
LISTS: Final[tuple[ListName, ...]] = ("blacklist", "allow-only")
GRANTS: Final[tuple[GrantName, ...]] = ("audited-payload", "partner")

log = structlog.get_logger()


class Mode(StrEnum):
    """How far a grant goes."""

    ALL = "all"
    NONE = "none"
    WHITELIST = "whitelist"
    """To the domains of the whitelist."""


class AccessList(msgspec.Struct, frozen=True):
    """One list and whether it is applied."""

    enabled: bool = False
    identity: list[str] = []
    certified: list[str] = []
    """Ids of Golem certificates."""


class Grant(msgspec.Struct, frozen=True):
    """What hangs from a certificate may reach."""

    mode: Mode
    description: str = ""


class OutboundRules(msgspec.Struct, frozen=True, rename="kebab"):
    """What programs may reach of the internet, by certificate id where that matters."""

    enabled: bool = True
    everyone: Mode = Mode.WHITELIST
    audited_payload: dict[str, Grant] = {}
    partner: dict[str, Grant] = {}

    def of(self, name: GrantName) -> Mapping[str, Grant]:
        return self.partner if name == "partner" else self.audited_payload

    def changed(self, name: GrantName, grants: Mapping[str, Grant]) -> "OutboundRules":
        return msgspec.structs.replace(self, **{name.replace("-", "_"): dict(grants)})


class Access(msgspec.Struct, frozen=True, rename="kebab"):
    """The file."""

    outbound: OutboundRules = OutboundRules()
    blacklist: AccessList = AccessList()
    allow_only: AccessList = AccessList()

    def of(self, name: ListName) -> AccessList:
        return self.blacklist if name == "blacklist" else self.allow_only

    def changed(self, name: ListName, listed: AccessList) -> "Access":
        return msgspec.structs.replace(self, **{name.replace("-", "_"): listed})

    def reaching(self, outbound: OutboundRules) -> "Access":
        return msgspec.structs.replace(self, outbound=outbound)

    def without_strangers(self, known: Collection[str]) -> "Access":
        """Return what is left when only rules about these certificates count."""
        found = self
        for name in LISTS:
            listed = self.of(name)
            left = [one for one in listed.certified if one in known]
            _say_gone(name, set(listed.certified) - set(left))
            found = found.changed(name, msgspec.structs.replace(listed, certified=left))
        outbound = self.outbound
        for grant in GRANTS:
            grants = {one: rule for one, rule in outbound.of(grant).items() if one in known}
            _say_gone(grant, set(outbound.of(grant)) - set(grants))
            outbound = outbound.changed(grant, grants)
        return found.reaching(outbound)


def load_access(data_dir: Path) -> Access:
    """Read the file; the defaults without one. UsageError when it cannot be applied."""
    path = data_dir / FILE_NAME
    found = read_file(path, Access, remedy=REMEDY)
    if found is None:
        return Access()
    try:
        for name in LISTS:
            found = found.changed(name, _checked(found.of(name), name))
        for grant in GRANTS:
            _require_few(found.outbound.of(grant), grant)
    except ShemError as error:
        raise UsageError(f"{path}: {error.message}; {REMEDY}") from error
    return found


def save_access(data_dir: Path, access: Access) -> None:
    write_file(data_dir / FILE_NAME, access)


def _checked(listed: AccessList, name: str) -> AccessList:
    if len(listed.identity) > IDENTITIES_MAX:
        raise UsageError(f"{name}.identity has at most {IDENTITIES_MAX} entries")
    _require_few(listed.certified, f"{name}.certified")
    known = [str(parse_node_id(identity)) for identity in listed.identity]
    return msgspec.structs.replace(listed, identity=known)


def _require_few(rules: Collection[str], name: str) -> None:
    if len(rules) > CERTIFICATES_MAX:
        raise UsageError(f"{name} has at most {CERTIFICATES_MAX} entries")


def _say_gone(name: str, certificates: Collection[str]) -> None:
    for certificate in sorted(certificates):
        log.warning(
            "rule.not_applied",
            rule=name,
            certificate=certificate[:16],
            reason="the certificate is not in the keystore",
        )
