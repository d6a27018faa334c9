"""What can be rented: a payload says which properties and constraints the demand gets.

    WasmPackage(url="https://example.org/tool.zip", hash="sha3:6c1a…")
    WasmPackage.of_file(Path("tool.zip"), url="https://example.org/tool.zip")

The package is a zip with `manifest.json` (docs/protocol/activity-exeunit.md §9.5); providers fetch
it from `url` and refuse it unless the hash fits.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from shem.kernel.errors import UsageError

RUNTIME_WASM: Final = "wasmtime"
"""The network's name for the WASI runtime."""
_HASH: Final = re.compile(r"sha3:(?:[0-9a-f]{2}){28,64}")


class Payload(Protocol):
    """Anything that can tell what it needs."""

    def properties(self) -> dict[str, Any]: ...
    def constraints(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class WasmPackage:
    """A WASI program in a package."""

    url: str
    hash: str
    """`sha3:` and the hex digest of the file (SHA3-224 to SHA3-512)."""
    runtime: str = RUNTIME_WASM
    min_mem_gib: float | None = None
    extra_constraints: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not _HASH.fullmatch(self.hash):
            raise UsageError(f"hash {self.hash!r} is not 'sha3:' and a hex digest in lower case")
        if ":" not in self.url:
            raise UsageError(f"url {self.url!r} has no scheme; providers fetch the package from it")

    @classmethod
    def of_file(cls, path: Path, *, url: str) -> "WasmPackage":
        """Describe a package file that is served at `url`."""
        return cls(url=url, hash="sha3:" + hashlib.sha3_224(path.read_bytes()).hexdigest())

    def properties(self) -> dict[str, Any]:
        return {"golem.srv.comp.task_package": f"hash:{self.hash}:{self.url}"}

    def constraints(self) -> tuple[str, ...]:
        memory = () if self.min_mem_gib is None else (f"(golem.inf.mem.gib>={self.min_mem_gib})",)
        return (f"(golem.runtime.name={self.runtime})", *memory, *self.extra_constraints)
