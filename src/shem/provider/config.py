"""Settings of `shem provider run` (docs/protocol/provider-agent.md §2)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from shem.kernel.config import DEFAULT_API_URL, DEFAULT_GSB_URL
from shem.provider.files import read_file, write_file
from shem.rest.terms import RETENTION_DEFAULT_S

DEFAULT_DATA_DIR: Final = "~/.local/share/shem-provider"
DEFAULT_SUBNET: Final = "public"
DEFAULT_PAYMENT_PLATFORM: Final = "erc20-holesky-tglm"
DEFAULT_AGREEMENTS_MAX: Final = 4
"""Agreements at a time; a WASI activity keeps at most one core busy."""
DEFAULT_IDLE_S: Final = 90.0
DEFAULT_TERMINATION_S: Final = 5.0
PLATFORMS_MAX: Final = 16
TOKENS: Final = {"mainnet": "glm", "polygon": "glm"}
"""Networks whose token is real; all others use tGLM."""
GLOBALS_NAME: Final = "globals.json"
RUNNING_NAME: Final = "running.json"
"""What the agent that runs was told by its options, which go before the files."""
GLOBALS_REMEDY: Final = "correct it, or move it away and use `shem provider config set`"


class _Account(msgspec.Struct, frozen=True):
    """How old files name the account."""

    address: str
    platform: str = ""


class Globals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `shem provider config` keeps: who the provider is."""

    node_name: str | None = None
    subnet: str | None = None
    account: str | _Account | None = None

    @property
    def address(self) -> str | None:
        """Where payments go; the node's own id when None."""
        return self.account.address if isinstance(self.account, _Account) else self.account

    def over(self, other: "Globals") -> "Globals":
        """Return what is said here, and of the rest what is said there."""
        return Globals(
            self.node_name or other.node_name,
            self.subnet or other.subnet,
            self.account or other.account,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the operator lets agreements say; all times in seconds (§5)."""

    expiration_min_s: float = 300.0
    expiration_max_s: float = 100 * 365.25 * 86_400
    expiration_without_deadline_max_s: float = 1_800.0
    """Of an agreement that costs something, without a deadline to accept debit notes."""
    accept_timeout_s: float = 240.0
    note_interval_s: float = 120.0
    note_interval_min_s: float = 1.0
    note_interval_max_s: float = 86_400.0
    payment_timeout_s: float = 120.0
    payment_timeout_min_s: float = 1.0
    payment_timeout_max_s: float = 86_400.0
    payment_timeout_required_s: float = 36_000.0
    """An agreement that costs something and lives so long must say when it pays."""
    absence_max_s: float = 7 * 86_400.0
    """How long an agreement may let its requestor be away, where it says so."""
    retention_s: float = RETENTION_DEFAULT_S
    """How long results are kept after the agreement's end, unless the demand says otherwise."""
    retention_max_s: float = 30 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderConfig:
    """Everything an operator chooses."""

    app_key: str
    data_dir: Path
    api_url: str = DEFAULT_API_URL
    gsb_url: str = DEFAULT_GSB_URL
    node_name: str | None = None
    subnet: str | None = None
    account: str | None = None
    """These three: what is not stated here is in `globals.json`."""
    payment_platforms: tuple[str, ...] = (DEFAULT_PAYMENT_PLATFORM,)
    exe_unit_path: str | None = None
    agreements_max: int = DEFAULT_AGREEMENTS_MAX
    caps: tuple[int | None, float | None, float | None] = (None, None, None)
    """The most threads, GiB of memory and GiB of storage, whatever the machine has."""
    terms: Terms = field(default_factory=Terms)
    idle_agreement_s: float = DEFAULT_IDLE_S
    termination_s: float = DEFAULT_TERMINATION_S
    """How long an ExeUnit may take to end before it is killed."""
    nursery: bool = True
    """Whether our own ExeUnits are forked by a process that has everything imported."""
    clears_activities: bool = False
    clears_agreements: bool = False
    """Whether work directories go as soon as nobody needs them, not only when they are old."""
    cert_dir: Path | None = None
    """Where certificates are, unless in the data directory."""
    manifests_are_checked: bool = True
    """Whether what a manifest wants to reach has to be granted by a rule."""

    @property
    def exe_unit_dir(self) -> Path:
        return self.data_dir / "exe-unit"

    @property
    def stated(self) -> Globals:
        return Globals(self.node_name, self.subnet, self.account)

    @property
    def work_dir(self) -> Path:
        return self.exe_unit_dir / "work"

    @property
    def cache_dir(self) -> Path:
        return self.exe_unit_dir / "cache"


def platform_of(network: str) -> str:
    """Return the payment platform of a network, `erc20-hoodi-tglm`; a full name stays as it is."""
    name = network.lower()
    return name if "-" in name else f"erc20-{name}-{TOKENS.get(name, 'tglm')}"


def load_globals(data_dir: Path) -> Globals:
    """Read who the provider is; UsageError when the file cannot be used."""
    found = read_file(data_dir / GLOBALS_NAME, Globals, remedy=GLOBALS_REMEDY)
    return Globals() if found is None else found


def save_globals(data_dir: Path, found: Globals) -> None:
    write_file(data_dir / GLOBALS_NAME, found)


def note_options(config: ProviderConfig) -> None:
    """Write down, for `status`, who the options say that the provider is."""
    write_file(config.data_dir / RUNNING_NAME, config.stated)


def options_of_the_agent(data_dir: Path) -> Globals:
    """Return what the agent that holds the directory was told by its options."""
    found = read_file(data_dir / RUNNING_NAME, Globals, remedy="start the agent again")
    return Globals() if found is None else found
