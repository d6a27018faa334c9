"""Who may rent here: blacklist and allow-only list, in `rules.json` (docs/protocol/
provider-agent.md §5.9).

Identities are listed by node id. Lists of certificates, and rules about the network of an activity,
are read as other providers write them and not supported yet; one that is switched on is refused, so
that no operator believes in a rule that nobody applies.
"""

from pathlib import Path
from typing import Any, Final

import msgspec

from shem.kernel.errors import NotSupported, ShemError, UsageError
from shem.kernel.ids import parse_node_id
from shem.provider.files import read_file, write_file

FILE_NAME: Final = "rules.json"
IDENTITIES_MAX: Final = 10_000
REMEDY: Final = "correct it, or move it away and use `shem provider rule`"
LISTS: Final = ("blacklist", "allow-only")


class AccessList(msgspec.Struct, frozen=True):
    """One list and whether it is applied."""

    enabled: bool = False
    identity: list[str] = []
    certified: list[Any] = []


class Access(msgspec.Struct, frozen=True, rename="kebab"):
    """The file; `outbound` is kept as it is."""

    outbound: dict[str, Any] | None = None
    blacklist: AccessList = AccessList()
    allow_only: AccessList = AccessList()

    def of(self, name: str) -> AccessList:
        found = getattr(self, name.replace("-", "_"))
        assert isinstance(found, AccessList)
        return found

    def changed(self, name: str, listed: AccessList) -> "Access":
        return msgspec.structs.replace(self, **{name.replace("-", "_"): listed})

    def refusal(self, requestor: str) -> str | None:
        """Say why a requestor may not rent here; None when it may."""
        who = requestor.lower()
        if self.blacklist.enabled and who in self.blacklist.identity:
            return f"Requestor {who} is on the blacklist of this provider"
        if self.allow_only.enabled and who not in self.allow_only.identity:
            return f"Requestor {who} is not on the allow-only list of this provider"
        return None


def load_access(data_dir: Path) -> Access:
    """Read the file; without one everybody may rent. UsageError when it cannot be applied."""
    path = data_dir / FILE_NAME
    found = read_file(path, Access, remedy=REMEDY)
    if found is None:
        return Access()
    try:
        for name in LISTS:
            found = found.changed(name, _checked(found.of(name), name))
    except ShemError as error:
        raise UsageError(f"{path}: {error.message}; {REMEDY}") from error
    return found


def save_access(data_dir: Path, access: Access) -> None:
    write_file(data_dir / FILE_NAME, access)


def _checked(listed: AccessList, name: str) -> AccessList:
    if listed.enabled and listed.certified:
        raise NotSupported(f"{name}.certified: certificates are not supported yet")
    if len(listed.identity) > IDENTITIES_MAX:
        raise UsageError(f"{name}.identity has at most {IDENTITIES_MAX} entries")
    known = [str(parse_node_id(identity)) for identity in listed.identity]
    return msgspec.structs.replace(listed, identity=known)
