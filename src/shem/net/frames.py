"""Messages on a stream channel: two length prefixes around each, padded to multiples of four.

Pure. Sending: `be32(L1) be32(L2) message padding`, with 4 + L1 a multiple of four, so that a
receiver which lost us within a frame misses a multiple of four bytes, and zeros repair it.
Receiving: one buffer per connection; zero frames and bytes after the message are ignored.
Spec: docs/protocol/net.md §9.1.
"""

from typing import Final

from shem.net.types import MESSAGE_SIZE_MAX
from shem.wire.errors import WireError

FRAME_SIZE_MAX: Final = MESSAGE_SIZE_MAX + 8
"""Largest L1 accepted: the longest message with its own prefix and padding."""
_PREFIX_SIZE: Final = 4


def encode_frame(message: bytes) -> bytes:
    """Return the frame of one message."""
    padding = -len(message) % 4
    outer = _PREFIX_SIZE + len(message) + padding
    return b"".join((outer.to_bytes(4), len(message).to_bytes(4), message, bytes(padding)))


class FrameBuffer:
    """Cuts the bytes of one connection into messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._wanted = _PREFIX_SIZE
        """Bytes to have before looking again."""

    def __len__(self) -> int:
        return len(self._bytes)

    def feed(self, piece: bytes) -> list[bytes]:
        """Add bytes; return the messages they complete. WireError: the stream is out of step."""
        self._bytes += piece
        if len(self._bytes) < self._wanted:
            return []
        messages: list[bytes] = []
        at = 0
        while len(self._bytes) - at >= _PREFIX_SIZE:
            outer = int.from_bytes(self._bytes[at : at + _PREFIX_SIZE])
            if outer > FRAME_SIZE_MAX or 0 < outer < _PREFIX_SIZE:
                raise WireError(f"a frame of {outer} bytes")
            self._wanted = _PREFIX_SIZE + outer
            if len(self._bytes) - at < self._wanted:
                break
            if outer and (message := self._read_message(at + _PREFIX_SIZE, outer)):
                messages.append(message)
            at += self._wanted
            self._wanted = _PREFIX_SIZE
        del self._bytes[:at]
        return messages

    def _read_message(self, at: int, outer: int) -> bytes:
        start = at + _PREFIX_SIZE
        size = int.from_bytes(self._bytes[at:start])
        if size > outer - _PREFIX_SIZE:
            raise WireError(f"a message of {size} bytes in a frame of {outer}")
        return bytes(self._bytes[start : start + size])
