"""The package of a WASI program: a zip with `manifest.json`.

Pure but for reading the file (docs/protocol/activity-exeunit.md §9.5). Nothing is unpacked: modules
are read by name, directories for the mount points are made by the runtime. All sizes are bounded
before anything is read.
"""

import json
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final

from shem.exeunit.runtimes.base import RuntimeFault

MANIFEST_NAME: Final = "manifest.json"
MANIFEST_SIZE_MAX: Final = 1 << 20
MODULE_SIZE_MAX: Final = 256 << 20
ENTRY_POINTS_MAX: Final = 64
MOUNT_POINTS_MAX: Final = 64


class Access(StrEnum):
    """How a program may use a mount point, by its key in the manifest."""

    READ = "ro"
    READ_WRITE = "rw"
    WRITE = "wo"
    PRIVATE = "private"


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A directory that a program sees."""

    path: str
    """Absolute, inside the program."""
    access: Access


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a package says of itself."""

    name: str
    entry_points: dict[str, str]
    """Module path in the zip, by entry point id."""
    mount_points: tuple[MountPoint, ...]


def read_manifest(package: Path) -> Manifest:
    """Read and check the manifest of a package."""
    try:
        body = json.loads(_read(package, MANIFEST_NAME, MANIFEST_SIZE_MAX))
        return _parse(body)
    except (ValueError, RecursionError) as error:
        raise RuntimeFault(f"the package's {MANIFEST_NAME} is not JSON: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise RuntimeFault(f"the package's {MANIFEST_NAME} is malformed: {error!r}") from error


def read_module(package: Path, wasm_path: str) -> bytes:
    """Read one WebAssembly module of a package."""
    return _read(package, wasm_path, MODULE_SIZE_MAX)


def _read(package: Path, name: str, size_max: int) -> bytes:
    try:
        with zipfile.ZipFile(package) as archive, archive.open(name) as entry:
            data = entry.read(size_max + 1)
    except KeyError:
        raise RuntimeFault(f"the package has no {name}") from None
    except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, NotImplementedError) as error:
        raise RuntimeFault(f"the package cannot be read: {error}") from error
    if len(data) > size_max:
        raise RuntimeFault(f"the package's {name} is larger than {size_max} bytes")
    return data


def _parse(body: dict[str, object]) -> Manifest:
    runtime = body.get("runtime") or "wasi"
    if runtime != "wasi":
        raise RuntimeFault(f"packages for the runtime {runtime!r} are not supported yet")
    entries = _maps(body["entry-points"], "entry-points", ENTRY_POINTS_MAX)
    mounts = _maps(body.get("mount-points") or [], "mount-points", MOUNT_POINTS_MAX)
    return Manifest(
        name=str(body.get("name", "")),
        entry_points={str(entry["id"]): str(entry["wasm-path"]) for entry in entries},
        mount_points=tuple(_mount_point(mount) for mount in mounts),
    )


def _maps(value: object, name: str, count_max: int) -> list[dict[str, object]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RuntimeFault(f"the package's {name} is not a list of maps")
    if len(value) > count_max:
        raise RuntimeFault(f"a package has at most {count_max} {name}")
    return value


def _mount_point(mount: dict[str, object]) -> MountPoint:
    [(access, path)] = mount.items()
    if access not in set(Access):
        raise RuntimeFault(f"{access!r} is not a kind of mount point")
    inside = PurePosixPath("/") / str(path)
    if ".." in inside.parts or "\0" in str(path):
        raise RuntimeFault(f"the mount point {path!r} leaves the program's root")
    return MountPoint(str(inside), Access(access))
