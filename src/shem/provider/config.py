"""Settings of `shem provider run` (docs/protocol/provider-agent.md §2.2)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shem.kernel.config import DEFAULT_API_URL, DEFAULT_GSB_URL

DEFAULT_DATA_DIR: Final = "~/.local/share/shem-provider"
DEFAULT_SUBNET: Final = "public"
DEFAULT_PAYMENT_PLATFORM: Final = "erc20-holesky-tglm"
DEFAULT_AGREEMENTS_MAX: Final = 4
"""Agreements at a time; a WASI activity keeps at most one core busy."""
DEFAULT_EXPIRATION_MIN_S: Final = 300.0
DEFAULT_EXPIRATION_MAX_S: Final = 100 * 365.25 * 86_400
DEFAULT_IDLE_S: Final = 90.0
DEFAULT_TERMINATION_S: Final = 5.0
GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the provider offers of its machine."""

    architecture: str
    cores: int
    threads: int
    memory_gib: float
    storage_gib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderConfig:
    """Everything an operator chooses."""

    app_key: str
    data_dir: Path
    api_url: str = DEFAULT_API_URL
    gsb_url: str = DEFAULT_GSB_URL
    node_name: str | None = None
    subnet: str = DEFAULT_SUBNET
    account: str | None = None
    """Where payments go; the node's own id when None."""
    payment_platform: str = DEFAULT_PAYMENT_PLATFORM
    exe_unit_path: str | None = None
    agreements_max: int = DEFAULT_AGREEMENTS_MAX
    expiration_min_s: float = DEFAULT_EXPIRATION_MIN_S
    expiration_max_s: float = DEFAULT_EXPIRATION_MAX_S
    idle_agreement_s: float = DEFAULT_IDLE_S
    termination_s: float = DEFAULT_TERMINATION_S
    """How long an ExeUnit may take to end before it is killed."""

    @property
    def work_dir(self) -> Path:
        return self.data_dir / "exe-unit" / "work"

    @property
    def cache_dir(self) -> Path:
        return self.data_dir / "exe-unit" / "cache"
