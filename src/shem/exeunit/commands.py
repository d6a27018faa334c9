"""The commands of an ExeScript as values (docs/protocol/activity-exeunit.md §7). Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """The names of commands on the wire."""

    DEPLOY = "deploy"
    START = "start"
    RUN = "run"
    TRANSFER = "transfer"
    TERMINATE = "terminate"
    SIGN = "sign"


class Part(StrEnum):
    """Which part of an output is kept."""

    ALL = "all"
    HEAD = "head"
    TAIL = "tail"
    HEAD_TAIL = "headTail"


@dataclass(frozen=True, slots=True)
class CaptureMode:
    """How one output stream is kept (§8.4)."""

    stream: bool = False
    """Also reported while the command runs; `part` is then ALL or HEAD."""
    part: Part = Part.ALL
    limit: int = 0
    """Bytes that `part` keeps; without meaning for ALL."""
    binary: bool = False


class VolumeKind(StrEnum):
    """Where a volume that a deploy asks for lies."""

    HOST = "host"
    RAM = "ram"
    STORAGE = "storage"


@dataclass(frozen=True, slots=True)
class VolumeWish:
    """A volume that a deploy asks for, beyond those of the image."""

    kind: VolumeKind
    size: int | None = None
    """In bytes; None for HOST."""

    def wire(self) -> dict[str, dict[str, int]]:
        return {str(self.kind): {} if self.size is None else {"size": self.size}}


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What a deploy may ask for beyond the image."""

    volumes: Mapping[str, VolumeWish] = field(default_factory=dict)
    """By the path inside."""
    hostname: str | None = None
    networks: bool = False
    """Whether the requestor wants this activity in a VPN."""


class Format(StrEnum):
    """How a directory travels as one file."""

    TAR = "tar"
    TAR_BZ2 = "tar.bz2"
    TAR_GZ = "tar.gz"
    TAR_XZ = "tar.xz"
    ZIP = "zip"
    ZIP_STORED = "zip.0"


@dataclass(frozen=True, slots=True)
class FileSet:
    """Which files of a directory are packed, by glob patterns."""

    includes: tuple[str, ...] = ("**/*",)
    excludes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TransferSpec:
    """From where to where, and as what."""

    source: str
    target: str
    format: Format | None = None
    depth: int | None = None
    """Directories below the one that is packed; None for all."""
    filesets: tuple[FileSet, ...] = (FileSet(),)
    """A file is packed when any of them takes it."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command; which fields mean something depends on `kind`."""

    kind: Kind
    entry_point: str = ""
    args: tuple[str, ...] = ()
    stdout: CaptureMode | None = None
    stderr: CaptureMode | None = None
    deploy: DeployOptions = field(default_factory=DeployOptions)
    transfer: TransferSpec | None = None
    progress_s: float | None = None
    """How often progress is told; None for never."""
