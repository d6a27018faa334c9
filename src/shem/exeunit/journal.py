"""The journal: what the ExeUnit has promised and seen, on disk before anyone is told.

One record a line, `<crc32 as 8 hex> <length> <JSON>\\n`, appended with one write and one sync. The
file has room ahead, zeros, since a sync of what is overwritten costs less than one that makes the
file longer. Rules:
* one process at a time: the file is locked for as long as it is open;
* a torn last line (the process died while writing it, so nobody was told) is cut off at opening;
* a bad line *before* a good one is damage and not a crash: StorageFault, nothing is guessed;
* a failed write is taken back; until that has been possible, nothing else is written.
"""

import fcntl
import json
import os
import re
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from shem.kernel.errors import Conflict, StorageFault

RECORD_SIZE_MAX: Final = 64 << 20
JOURNAL_SIZE_MAX: Final = 1 << 30
ROOM: Final = 32 << 10
"""Zeros ahead of the next record, whenever the file is made longer."""
_HEAD_SIZE: Final = 8 + 1 + 10 + 1
"""crc, space, length (ten digits), space."""
_HEAD: Final = re.compile(rb"(?=[0-9a-f]{8} [0-9]{10} )")

Record = dict[str, object]


def encode_record(record: Record) -> bytes:
    """Return the line of one record."""
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    if len(body) > RECORD_SIZE_MAX:
        raise StorageFault(f"a journal record has at most {RECORD_SIZE_MAX} bytes")
    return b"%08x %010d %s\n" % (zlib.crc32(body), len(body), body)


def decode_records(data: bytes) -> tuple[list[Record], int]:
    """Return the records of a journal and the size of its good part; StorageFault when damaged."""
    records: list[Record] = []
    offset = 0
    while offset < len(data):
        record, end = _decode_at(data, offset)
        if record is None:
            _require_torn(data, offset)
            break
        records.append(record)
        offset = end
    return records, offset


def _decode_at(data: bytes, offset: int) -> tuple[Record | None, int]:
    head = data[offset : offset + _HEAD_SIZE]
    if len(head) < _HEAD_SIZE or head[8:9] != b" " or head[19:20] != b" ":
        return None, offset
    crc, size = head[:8], head[9:19]
    if not size.isdigit():
        return None, offset
    start = offset + _HEAD_SIZE
    end = start + int(size)
    body = data[start:end]
    if data[end : end + 1] != b"\n" or b"%08x" % zlib.crc32(body) != crc:
        return None, offset
    record = json.loads(body)
    return (record, end + 1) if isinstance(record, dict) else (None, offset)


def _require_torn(data: bytes, offset: int) -> None:
    """Refuse a bad line that has a good one after it."""
    for head in _HEAD.finditer(data, offset + 1):
        if _decode_at(data, head.start())[0] is not None:
            raise StorageFault(f"the journal is damaged at byte {offset}: restore or remove it")


class Journal:
    """An open journal; `append` blocks, so call it from a worker thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self._length = 0
        """Of the file, with the room ahead."""
        self._torn = False
        """A write failed, and what it may have left behind could not be taken back yet."""
        self._file = -1

    def open(self) -> list[Record]:
        """Lock the file, cut a torn tail, and return what was recorded before."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise Conflict(f"{self._path}: another ExeUnit has this journal open") from None
        try:
            return self._load()
        except OSError as error:
            self.close()
            raise StorageFault(f"{self._path}: {error}") from error
        except StorageFault:
            self.close()
            raise

    def append(self, record: Record) -> None:
        """Make one record durable; when this raises, it is not and will not be."""
        if self._file < 0:
            raise StorageFault(f"{self._path}: the journal is closed")
        line = encode_record(record)
        if self._size + len(line) > JOURNAL_SIZE_MAX:
            raise StorageFault(f"the journal has reached {JOURNAL_SIZE_MAX} bytes")
        try:
            self._take_back()
            self._torn = True
            self._write(line)
        except OSError as error:
            with suppress(OSError):
                self._take_back()
            raise StorageFault(f"{self._path}: {error}") from error
        self._torn = False
        self._size += len(line)

    def _write(self, line: bytes) -> None:
        """Write and sync a line, with new room behind it when there is none for it."""
        if self._size + len(line) <= self._length:
            _write_all(self._file, line, self._size)
            os.fdatasync(self._file)
        else:
            _write_all(self._file, line + bytes(ROOM), self._size)
            os.fsync(self._file)
            self._length = self._size + len(line) + ROOM

    def close(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                self._take_back()
                if self._length > self._size:
                    os.ftruncate(self._file, self._size)
            os.close(self._file)
            self._file = -1

    def _load(self) -> list[Record]:
        size = os.fstat(self._file).st_size
        if size > JOURNAL_SIZE_MAX + ROOM:
            raise StorageFault(f"{self._path}: more than {JOURNAL_SIZE_MAX} bytes")
        data = os.pread(self._file, size, 0)
        records, self._size = decode_records(data)
        self._length = size
        if data[self._size :].strip(b"\0"):
            os.ftruncate(self._file, self._size)
            self._length = self._size
            os.fsync(self._file)
        _sync_directory(self._path.parent)
        return records

    def _take_back(self) -> None:
        """Make sure that nothing of a failed write is there, nor will be after a crash."""
        if self._torn:
            os.ftruncate(self._file, self._size)
            self._length = self._size
            os.fsync(self._file)
            self._torn = False


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view = view[written:]
        offset += written


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
