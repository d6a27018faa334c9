"""The two queues of a connection: frames waiting to be sent, and bytes that came too early.

Pure. Stream positions ("offsets") are plain integers that never wrap: 0 is the SYN, 1 the first
byte. Spec: docs/protocol/net.md §8.2, §9.1 (a frame is cut only at multiples of four).
"""

from collections import deque
from typing import Final

RECEIVE_WINDOW: Final = 256 * 1024
"""What we offer a sender, and so the most we hold out of order; yagna has 128 KiB in flight."""
HELD_SEGMENTS_MAX: Final = 512
"""Separate pieces held out of order; more are dropped and come again."""


class FrameQueue:
    """Whole frames waiting to be cut into segments."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._taken = 0
        """Bytes of the first frame that are gone already."""
        self.size = 0

    def push(self, frame: bytes) -> None:
        self._frames.append(frame)
        self.size += len(frame)

    def take(self, limit: int) -> tuple[bytes, bool]:
        """Remove up to `limit` bytes; True when they end with a frame."""
        pieces: list[bytes] = []
        while self._frames and limit:
            frame = self._frames[0]
            piece = frame[self._taken : self._taken + limit]
            pieces.append(piece)
            limit -= len(piece)
            self._taken += len(piece)
            if self._taken == len(frame):
                self._frames.popleft()
                self._taken = 0
        payload = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self.size -= len(payload)
        return payload, self._taken == 0

    @property
    def rest_of_frame(self) -> int:
        """Bytes still missing of a frame that is partly taken."""
        return len(self._frames[0]) - self._taken if self._taken else 0

    def untouched(self) -> list[bytes]:
        """Return the frames of which nothing was taken."""
        frames = list(self._frames)
        return frames[1:] if self._taken else frames


class Reassembly:
    """Puts the bytes of a stream in order; holds what comes early, within the window."""

    def __init__(self, start: int) -> None:
        self.next = start
        """Offset of the first byte that is still missing."""
        self._held: dict[int, bytes] = {}
        self._held_bytes = 0

    @property
    def has_hole(self) -> bool:
        return bool(self._held)

    def held_blocks(self, latest: int, limit: int) -> list[tuple[int, int]]:
        """Return up to `limit` blocks held out of order, the one with offset `latest` first."""
        blocks: list[tuple[int, int]] = []
        for offset in sorted(self._held):
            end = offset + len(self._held[offset])
            if blocks and offset <= blocks[-1][1]:
                blocks[-1] = (blocks[-1][0], max(end, blocks[-1][1]))
            else:
                blocks.append((offset, end))
        blocks.sort(key=lambda block: not block[0] <= latest < block[1])
        return blocks[:limit]

    def accept(self, offset: int, payload: bytes) -> list[bytes]:
        """Take `payload` at `offset`; return the pieces that are now in order."""
        if offset > self.next:
            self._hold(offset, payload)
            return []
        fresh = payload[self.next - offset :] if offset < self.next else payload
        if not fresh:
            return []
        self.next += len(fresh)
        return [fresh, *self._release()] if self._held else [fresh]

    def _hold(self, offset: int, payload: bytes) -> None:
        more = len(payload) - len(self._held.get(offset, b""))
        in_window = offset + len(payload) <= self.next + RECEIVE_WINDOW
        if not in_window or more <= 0 or self._held_bytes + more > RECEIVE_WINDOW:
            return
        if offset in self._held or len(self._held) < HELD_SEGMENTS_MAX:
            self._held[offset] = payload
            self._held_bytes += more

    def _release(self) -> list[bytes]:
        pieces: list[bytes] = []
        for offset in sorted(self._held):
            if offset > self.next:
                break
            payload = self._held.pop(offset)
            self._held_bytes -= len(payload)
            fresh = payload[self.next - offset :]
            if fresh:
                self.next += len(fresh)
                pieces.append(fresh)
        return pieces
