"""Directories as one file, both ways: tar in its compressions, and zip.

Archives are as hostile as programs. Names that lead outside, devices and pipes are refused; links
are made as they are and never followed; sizes are counted while they are unpacked, whatever the
headers say; headers that want memory are refused. All of it blocks: it runs in a thread.
"""

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, cast

from shem.exeunit.commands import Format
from shem.exeunit.runtimes.base import RuntimeFault
from shem.exeunit.transfer.budget import Budget
from shem.exeunit.transfer.fileset import Selection
from shem.exeunit.transfer.inside import open_beneath

CHUNK_SIZE: Final = 1 << 20
HEADER_SIZE_MAX: Final = 4 << 20
"""Of one read: contents are read in chunks, so anything longer is a header that lies."""
DIRECTORY_SIZE_MAX: Final = 64 << 20
"""Of the table of contents of a zip, which is read whole."""
LINK_SIZE_MAX: Final = 4_096
NAME_PARTS_MAX: Final = 256
MODES: Final = 0o777
"""Of a mode, what is kept: no set-uid."""
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BROKEN: Final = (
    OSError,
    RuntimeError,
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,
    UnicodeError,
    ValueError,
    OverflowError,
)
"""What the standard library raises for archives that are none; RuntimeError when encrypted."""


# ---- unpacking ---------------------------------------------------------------------------------


def unpack(archive: IO[bytes], kind: Format, target: int, budget: Budget) -> None:
    """Unpack an archive into an open directory."""
    try:
        if kind in (Format.ZIP, Format.ZIP_STORED):
            _unpack_zip(archive, target, budget)
        else:
            with _decompressed(archive, kind) as plain:
                _unpack_tar(plain, target, budget)
    except RuntimeFault:
        raise
    except _BROKEN as error:
        raise RuntimeFault(f"the archive cannot be unpacked: {error}") from error


def _unpack_tar(plain: IO[bytes], target: int, budget: Budget) -> None:
    reader = cast("IO[bytes]", _Bounded(plain, budget))
    with tarfile.TarFile(fileobj=reader, mode="r") as tar:
        while (member := tar.next()) is not None:
            budget.enter()
            cast("Any", tar).members = []  # kept for a look-up that we do not need
            parts = _safe_parts(member.name)
            if member.isdir():
                _make_directory(target, parts)
            elif member.issym():
                _make_link(target, parts, member.linkname)
            elif member.islnk():
                _make_hard_link(target, parts, _safe_parts(member.linkname))
            elif member.isreg():
                content = tar.extractfile(member)
                assert content is not None
                _write_file(target, parts, content, member.mode, budget)
            else:
                raise RuntimeFault(f"the archive holds a device or a pipe: {member.name[:200]!r}")


def _unpack_zip(archive: IO[bytes], target: int, budget: Budget) -> None:
    _require_small_directory(archive)
    with zipfile.ZipFile(archive) as found:
        for info in found.infolist():
            budget.enter()
            parts = _safe_parts(info.filename)
            mode = info.external_attr >> 16
            if info.is_dir():
                _make_directory(target, parts)
                continue
            with found.open(info) as content:
                if stat.S_ISLNK(mode):
                    _make_link(target, parts, content.read(LINK_SIZE_MAX).decode())
                else:
                    _write_file(target, parts, content, mode or 0o644, budget)


def _require_small_directory(archive: IO[bytes]) -> None:
    """Refuse a zip whose table of contents would fill the memory, by where it says that it is."""
    size = archive.seek(0, os.SEEK_END)
    archive.seek(max(0, size - 65_557))
    tail = archive.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < 22:
        raise RuntimeFault("the archive cannot be unpacked: it is not a zip")
    stated = int.from_bytes(tail[at + 12 : at + 16], "little")
    if stated == 0xFFFF_FFFF:
        record = tail.rfind(b"PK\6\6", 0, at)
        stated = int.from_bytes(tail[record + 40 : record + 48], "little") if record >= 0 else size
    if stated > DIRECTORY_SIZE_MAX:
        raise RuntimeFault(f"the archive's table of contents has {stated} bytes")
    archive.seek(0)


class _Bounded(io.RawIOBase):
    """A stream that gives out no more at a time than an honest reader asks for.

    What is skipped has to be decompressed all the same, so it is done in steps that can be stopped.
    """

    def __init__(self, plain: IO[bytes], budget: Budget) -> None:
        super().__init__()
        self._plain = plain
        self._budget = budget
        self._skipped = 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER_SIZE_MAX:
            raise RuntimeFault(f"the archive has a header of more than {HEADER_SIZE_MAX} bytes")
        return self._plain.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        assert whence == os.SEEK_SET, whence
        while (ahead := offset - self._plain.tell()) > 0:
            self._budget.spend(0)
            skipped = len(self._plain.read(min(ahead, CHUNK_SIZE)))
            self._skipped += skipped
            if self._skipped > self._budget.size_max:
                raise RuntimeFault("the archive holds more than may be unpacked")
            if not skipped:
                return self._plain.tell()
        return self._plain.seek(offset) if ahead else offset

    def tell(self) -> int:
        return self._plain.tell()


def _decompressed(archive: IO[bytes], kind: Format) -> AbstractContextManager[IO[bytes]]:
    match kind:
        case Format.TAR_GZ:
            return cast("IO[bytes]", gzip.GzipFile(fileobj=archive, mode="rb"))
        case Format.TAR_BZ2:
            return cast("IO[bytes]", bz2.BZ2File(archive))
        case Format.TAR_XZ:
            return cast("IO[bytes]", lzma.LZMAFile(archive))
        case _:
            return nullcontext(archive)


def _safe_parts(name: str) -> tuple[str, ...]:
    """Return the parts of an entry's name; RuntimeFault when it leads out of the directory."""
    pure = PurePosixPath(name)
    parts = pure.parts
    if pure.is_absolute() or ".." in parts or "\0" in name or len(parts) > NAME_PARTS_MAX:
        raise RuntimeFault(f"the archive holds an impossible name: {name[:200]!r}")
    return parts


@contextmanager
def _place(target: int, parts: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Open the directory of an entry, and make room for its name."""
    if not parts:
        raise RuntimeFault("the archive holds an entry without a name")
    with open_beneath(os.dup(target), parts[:-1], create=True) as parent:
        with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            os.unlink(parts[-1], dir_fd=parent)
        try:
            yield parent, parts[-1]
        except OSError as error:
            raise RuntimeFault(f"IO error: {'/'.join(parts)[:200]}: {error.strerror}") from error


def _make_directory(target: int, parts: tuple[str, ...]) -> None:
    with open_beneath(os.dup(target), parts, create=True):
        pass


def _make_link(target: int, parts: tuple[str, ...], points_to: str) -> None:
    with _place(target, parts) as (parent, name):
        os.symlink(points_to, name, dir_fd=parent)


def _make_hard_link(target: int, parts: tuple[str, ...], same_as: tuple[str, ...]) -> None:
    if not same_as:
        raise RuntimeFault("the archive holds a link to nothing")
    with (
        open_beneath(os.dup(target), same_as[:-1], create=False) as source,
        _place(target, parts) as (parent, name),
    ):
        os.link(same_as[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)


def _write_file(
    target: int, parts: tuple[str, ...], content: IO[bytes], mode: int, budget: Budget
) -> None:
    with _place(target, parts) as (parent, name):
        file = os.open(name, _CREATE, mode & MODES, dir_fd=parent)
        with open(file, "wb") as written:  # noqa: PTH123 - a descriptor
            while data := content.read(CHUNK_SIZE):
                budget.spend(len(data))
                written.write(data)


# ---- packing -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Packing:
    """What of a directory is packed, and how."""

    kind: Format
    selection: Selection
    depth: int | None = None
    """Directories below; None for all."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A file or link below the directory that is packed."""

    path: str
    parent: int
    name: str


def pack(source: int, packing: Packing, budget: Budget, archive: Path) -> None:
    """Pack an open directory into a new file."""
    kind = packing.kind
    if kind in (Format.ZIP, Format.ZIP_STORED):
        compression = zipfile.ZIP_DEFLATED if kind is Format.ZIP else zipfile.ZIP_STORED
        with zipfile.ZipFile(archive, "x", compression) as made:
            for found in _walk(source, packing, budget):
                _add_to_zip(made, found, budget)
        return
    mode = {"tar": "x", "tar.gz": "x:gz", "tar.bz2": "x:bz2", "tar.xz": "x:xz"}[kind]
    with tarfile.open(archive, cast("Any", mode)) as tar:
        for found in _walk(source, packing, budget):
            _add_to_tar(tar, found, budget)


def _walk(source: int, packing: Packing, budget: Budget) -> Iterator[_Found]:
    """Yield what is selected; links to directories are links."""
    depth = NAME_PARTS_MAX if packing.depth is None else packing.depth
    levels_max = min(depth + 1, NAME_PARTS_MAX)
    for top, directories, files, parent in os.fwalk(".", dir_fd=source, follow_symlinks=False):
        prefix = "" if top == "." else top.removeprefix("./") + "/"
        level = prefix.count("/") + 1  # of the files here
        links = [name for name in directories if _is_link(name, parent)]
        if level >= levels_max:
            directories.clear()
        directories.sort()
        for name in sorted([*files, *links]):
            path = prefix + name
            if level <= levels_max and packing.selection.takes(path):
                budget.enter()
                yield _Found(path, parent, name)


def _is_link(name: str, parent: int) -> bool:
    with suppress(OSError):
        return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    return False


def _add_to_tar(tar: tarfile.TarFile, found: _Found, budget: Budget) -> None:
    info = tarfile.TarInfo(found.path)
    seen = _stat(found)
    if seen is not None and stat.S_ISLNK(seen.st_mode):
        info.type = tarfile.SYMTYPE
        info.linkname = os.readlink(found.name, dir_fd=found.parent)
        tar.addfile(info)
        return
    with _opened(found) as file:
        if file is None:
            return
        state = os.fstat(file.fileno())
        info.size, info.mode, info.mtime = state.st_size, state.st_mode & MODES, state.st_mtime
        tar.addfile(info, cast("IO[bytes]", _Counted(file, budget)))


def _add_to_zip(made: zipfile.ZipFile, found: _Found, budget: Budget) -> None:
    with _opened(found) as file:
        if file is None:
            return
        info = zipfile.ZipInfo(found.path)
        info.compress_type = made.compression
        info.external_attr = (stat.S_IFREG | os.fstat(file.fileno()).st_mode & MODES) << 16
        with made.open(info, "w", force_zip64=True) as written:
            while data := file.read(CHUNK_SIZE):
                budget.spend(len(data))
                written.write(data)


@contextmanager
def _opened(found: _Found) -> Iterator[IO[bytes] | None]:
    """Open a plain file; None for what is none, or is no longer there."""
    try:
        handle = os.open(found.name, _READ, dir_fd=found.parent)
    except OSError:
        yield None
        return
    with open(handle, "rb") as file:  # noqa: PTH123 - a descriptor
        yield file if stat.S_ISREG(os.fstat(handle).st_mode) else None


def _stat(found: _Found) -> os.stat_result | None:
    with suppress(OSError):
        return os.stat(found.name, dir_fd=found.parent, follow_symlinks=False)
    return None


class _Counted(io.RawIOBase):
    """A file whose reading is counted."""

    def __init__(self, file: IO[bytes], budget: Budget) -> None:
        super().__init__()
        self._file = file
        self._budget = budget

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._budget.spend(len(data))
        return data
