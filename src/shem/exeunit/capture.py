"""Capture buffers: what is kept of a command's output (docs/protocol/activity-exeunit.md §8.4).

Pure and bounded: whatever a program prints, a buffer holds at most `CAPTURE_SIZE_MAX` bytes.
"""

from dataclasses import dataclass, field
from typing import Final

from shem.exeunit.commands import CaptureMode, Part

CAPTURE_SIZE_MAX: Final = 4 << 20
"""Bytes kept of one stream of one command, whatever was asked for."""

Output = str | bytes | None
"""What a result carries: text, raw bytes, or None when there is nothing."""


@dataclass(slots=True)
class Capture:
    """The output of one stream so far."""

    mode: CaptureMode | None
    written: int = 0
    _head: bytearray = field(default_factory=bytearray)
    _tail: bytearray = field(default_factory=bytearray)

    def add(self, data: bytes) -> bytes:
        """Take what the program wrote; return the bytes that a live subscriber is shown."""
        self.written += len(data)
        if self.mode is None:
            return b""
        head_size, tail_size = _sizes(self.mode)
        shown = data[: max(0, head_size - len(self._head))]
        self._head += shown
        if tail_size:
            self._tail += data[len(shown) :]
            del self._tail[: max(0, len(self._tail) - tail_size)]
        return shown if self.mode.stream else b""

    @property
    def cut(self) -> bool:
        """Whether bytes were lost to `CAPTURE_SIZE_MAX` although they were asked for."""
        if self.mode is None:
            return False
        kept = len(self._head) + len(self._tail)
        asked = self.written if self.mode.part is Part.ALL else min(self.written, self.mode.limit)
        return kept < asked

    def output(self) -> Output:
        """Return what a result carries."""
        kept = bytes(self._head + self._tail)
        if self.mode is None or not kept:
            return None
        return kept if self.mode.binary else as_text(kept)


def as_text(data: bytes) -> str:
    """Return UTF-8 as text; anything else byte by byte as the code points of the same value."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _sizes(mode: CaptureMode) -> tuple[int, int]:
    """Return how many bytes are kept from the start and from the end."""
    limit = CAPTURE_SIZE_MAX if mode.part is Part.ALL else min(mode.limit, CAPTURE_SIZE_MAX)
    if mode.part is Part.TAIL:
        return 0, limit
    if mode.part is Part.HEAD_TAIL:
        return limit - limit // 2, limit // 2
    return limit, 0
