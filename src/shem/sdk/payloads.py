"""What can be rented: a payload says which properties and constraints the demand gets.

    WasmPackage(url="https://example.org/tool.zip", hash="sha3:6c1a…")
    WasmPackage.of_file(Path("tool.zip"), url="https://example.org/tool.zip")
    ContainerImage(url="https://example.org/web.gvmi", hash="sha3:93d0…", start=START_ENTRYPOINT)

A wasm package is a zip with `manifest.json` (docs/protocol/activity-exeunit.md §9.5), an image is a
`.gvmi` file as `gvmkit-build` makes it for Golem VMs. Providers fetch either from `url` and refuse
it unless the hash fits.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from shem.kernel.errors import UsageError
from shem.rest.manifest import MANIFEST, write_manifest
from shem.sdk.errors import NotSupported

RUNTIME_WASM: Final = "wasmtime"
"""The network's name for the WASI runtime."""
RUNTIME_CONTAINER: Final = "container"
RUNTIME_VM: Final = "vm"
"""What most providers of the network have: the same images, in a virtual machine."""
START_ENTRYPOINT: Final = ("start-entrypoint",)
"""Arguments of the start that run the image's entry point, which then serves all the time."""
CAPABILITIES: Final = "golem.runtime.capabilities"
PACKAGE_FORMAT: Final = "gvmkit-squash"
TASK_PACKAGE: Final = "golem.srv.comp.task_package"
VPN: Final = "vpn"
INET: Final = "inet"
OUTBOUND_PROXY: Final = "outbound-proxy"
_HASH: Final = re.compile(r"sha3:(?:[0-9a-f]{2}){28,64}")


class Payload(Protocol):
    """Anything that can tell what it needs."""

    def properties(self) -> dict[str, Any]: ...
    def constraints(self) -> tuple[str, ...]: ...


@runtime_checkable
class Starting(Protocol):
    """A payload whose runtime is started with arguments."""

    @property
    def start(self) -> tuple[str, ...]: ...


def start_args(payload: Payload) -> tuple[str, ...]:
    """Return the arguments of the start of a payload."""
    return payload.start if isinstance(payload, Starting) else ()


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
        _require_place(self.url, self.hash)

    @classmethod
    def of_file(cls, path: Path, *, url: str) -> "WasmPackage":
        """Describe a package file that is served at `url`."""
        return cls(url=url, hash=_hash_of(path))

    def properties(self) -> dict[str, Any]:
        return {TASK_PACKAGE: f"hash:{self.hash}:{self.url}"}

    def constraints(self) -> tuple[str, ...]:
        memory = _at_least({"golem.inf.mem.gib": self.min_mem_gib})
        return (f"(golem.runtime.name={self.runtime})", *memory, *self.extra_constraints)


@dataclass(frozen=True, slots=True)
class ContainerImage:
    """An image in Golem's VM format, for providers with containers (or, `runtime="vm"`, VMs)."""

    url: str
    hash: str
    """`sha3:` and the hex digest of the file (SHA3-224 to SHA3-512)."""
    runtime: str = RUNTIME_CONTAINER
    start: tuple[str, ...] = ()
    """START_ENTRYPOINT makes the image's entry point run as a service; else nothing runs yet."""
    min_mem_gib: float | None = None
    min_storage_gib: float | None = None
    min_cpu_threads: int | None = None
    capabilities: tuple[str, ...] = ()
    """What the runtime must be able to do, by the network's names."""
    outbound: tuple[str, ...] = ()
    """URLs of hosts that programs may call (`https://api.example.com`), where the provider agrees.

    A container has a proxy to them, in `http_proxy` and `https_proxy`; a `vm` has their addresses.
    """
    extra_constraints: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        _require_place(self.url, self.hash)
        if VPN in self.capabilities:
            raise NotSupported("programs of an image are in no VPN: that is not supported yet")
        if INET in self.capabilities and not self.outbound:
            raise UsageError("capability inet: name what programs may call in outbound")
        if self.outbound:
            self._manifest()

    @classmethod
    def of_file(cls, path: Path, *, url: str, **options: Any) -> "ContainerImage":
        """Describe an image file that is served at `url`."""
        return cls(url=url, hash=_hash_of(path), **options)

    def properties(self) -> dict[str, Any]:
        manifest = {MANIFEST: self._manifest()} if self.outbound else {}
        return {
            TASK_PACKAGE: f"hash:{self.hash}:{self.url}",
            "golem.srv.comp.vm.package_format": PACKAGE_FORMAT,
            **manifest,
        }

    def constraints(self) -> tuple[str, ...]:
        needed = {
            "golem.inf.mem.gib": self.min_mem_gib,
            "golem.inf.storage.gib": self.min_storage_gib,
            "golem.inf.cpu.threads": self.min_cpu_threads,
        }
        named = {*self.capabilities, *(set(START_ENTRYPOINT) & set(self.start))}
        if self.outbound:
            named.add(OUTBOUND_PROXY if self.runtime == RUNTIME_CONTAINER else INET)
        able = (f"({CAPABILITIES}={name})" for name in sorted(named))
        runtime = f"(golem.runtime.name={self.runtime})"
        return (runtime, *_at_least(needed), *able, *self.extra_constraints)

    def _manifest(self) -> str:
        return write_manifest(image_url=self.url, image_hash=self.hash, urls=self.outbound)


def _at_least(needed: dict[str, float | None]) -> tuple[str, ...]:
    return tuple(f"({name}>={size})" for name, size in needed.items() if size is not None)


def _require_place(url: str, digest: str) -> None:
    if not _HASH.fullmatch(digest):
        raise UsageError(f"hash {digest!r} is not 'sha3:' and a hex digest in lower case")
    if ":" not in url:
        raise UsageError(f"url {url!r} has no scheme; providers fetch the package from it")


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return "sha3:" + hashlib.file_digest(file, "sha3_224").hexdigest()
