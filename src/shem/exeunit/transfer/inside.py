"""Paths inside a deployment, as a program of it may have laid them out: nothing leads outside.

A program can put links, pipes and devices wherever it likes in its volumes, and change them while
we look. So a path is walked one directory at a time by descriptors, links are never followed, and
what is at its end is opened before it is judged.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final

from shem.exeunit.runtimes.base import RuntimeFault, Volume

PATH_PARTS_MAX: Final = 256
DIRECTORY_MODE: Final = 0o755
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class InsidePath:
    """A path in a volume."""

    def __init__(self, volume: Volume, parts: tuple[str, ...]) -> None:
        self._volume = volume
        self.parts = parts

    def __str__(self) -> str:
        return str(PurePosixPath(self._volume.path, *self.parts))

    def open_file(self) -> int:
        """Open a plain file to read it; RuntimeFault when there is none."""
        if not self.parts:
            raise RuntimeFault(f"{self} is a directory; a transfer of it needs a format")
        with self._parent(create=False) as parent:
            file = self._open(self.parts[-1], _FILE, parent)
        mode = os.fstat(file).st_mode
        if not stat.S_ISREG(mode):
            os.close(file)
            kind = "a directory; a transfer of it needs a format"
            raise RuntimeFault(f"{self} is {kind if stat.S_ISDIR(mode) else 'not a plain file'}")
        return file

    @contextmanager
    def directory(self, *, create: bool) -> Iterator[int]:
        """Open a directory, made when it is not there."""
        with open_beneath(self._root(), self.parts, create=create, told_as=str(self)) as found:
            yield found

    def put(self, source: Path) -> None:
        """Give a finished file its place; what was there is replaced at once."""
        if not self.parts:
            raise RuntimeFault(f"{self} is a directory; a file needs a name there")
        with self._parent(create=True) as parent:
            try:
                os.rename(source, self.parts[-1], dst_dir_fd=parent)
            except IsADirectoryError:
                raise RuntimeFault(f"{self} is a directory; a file needs a name there") from None

    @contextmanager
    def _parent(self, *, create: bool) -> Iterator[int]:
        root, parents = self._root(), self.parts[:-1]
        with open_beneath(root, parents, create=create, told_as=str(self)) as found:
            yield found

    def _root(self) -> int:
        return os.open(self._volume.directory, _DIRECTORY)

    def _open(self, name: str, flags: int, parent: int) -> int:
        try:
            return os.open(name, flags, dir_fd=parent)
        except OSError as error:
            raise RuntimeFault(f"IO error: {self}: {error.strerror}") from error


def find_inside(path: str, volumes: Sequence[Volume]) -> InsidePath:
    """Return the place that a path names: in the volume with the longest fitting path."""
    pure = PurePosixPath(path)
    parts = pure.parts[1:]
    if ".." in parts or "//" in path[1:] or len(parts) > PATH_PARTS_MAX:
        raise RuntimeFault(f"IO error: path not found in container: {path[:200]}")
    for volume in sorted(volumes, key=lambda found: len(found.path), reverse=True):
        mounted = PurePosixPath(volume.path).parts[1:]
        if parts[: len(mounted)] == mounted:
            return InsidePath(volume, parts[len(mounted) :])
    raise RuntimeFault(f"IO error: path not found in container: {path[:200]}")


@contextmanager
def open_beneath(
    root: int, parts: Sequence[str], *, create: bool, told_as: str = ""
) -> Iterator[int]:
    """Walk down from an open directory, which is closed, without following any link."""
    current = root
    try:
        for name in parts:
            current = _step(current, name, create=create, told_as=told_as or "/".join(parts))
        yield current
    finally:
        os.close(current)


def _step(parent: int, name: str, *, create: bool, told_as: str) -> int:
    """Open a directory below `parent`; `parent` is closed when that worked."""
    if create:
        with suppress(FileExistsError):
            os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
    try:
        found = os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as error:
        raise RuntimeFault(f"IO error: {told_as}: {name[:100]!r}: {error.strerror}") from error
    os.close(parent)
    return found
