"""`mandel`, the program that the demo and the tests rent a provider for, and its package.

`mandel.c` is the source, `build.sh` builds `mandel.wasm` from it (Debian's clang, lld and
wasi-libc), `manifest.json` describes the package, and `write_package` packs both into the zip that
the WASI runtime deploys (docs/protocol/activity-exeunit.md §9.5). Equal content gives equal bytes,
so that the hash in a Demand can be known beforehand.
"""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
PACKAGE_FILES: Final = ("manifest.json", "mandel.wasm")
PACKAGE_NAME: Final = "mandel.zip"
_ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_FILE_MODE: Final = 0o644 << 16


@dataclass(frozen=True, slots=True)
class Package:
    """A packed program on this machine."""

    path: Path
    sha3_224: str

    @property
    def task_package(self) -> str:
        """The value for the Demand property `golem.srv.comp.task_package`, for a local provider."""
        return self.task_package_at(self.path.as_uri())

    def task_package_at(self, url: str) -> str:
        return f"hash:sha3:{self.sha3_224}:{url}"


def write_package(directory: Path) -> Package:
    """Pack mandel into `directory`; always the same bytes (stored: zlib versions differ)."""
    path = directory.absolute() / PACKAGE_NAME
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as package:
        for name in PACKAGE_FILES:
            entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
            entry.external_attr = _FILE_MODE
            package.writestr(entry, (HERE / name).read_bytes())
    return Package(path, hashlib.sha3_224(path.read_bytes()).hexdigest())
