"""Who runs SQLite's commits: a thread that groups them, or the caller itself.

Group commit: everything that queued up while the last transaction was being made durable goes into
the next one together, so that many callers share one fsync. Patient batches, for which nobody waits
in a hurry, wait a little for the next one that is none, and share its fsync. The store hands its
committer in, so that a simulation can run commits inline on virtual time.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from shem.kernel.errors import StorageFault
from shem.store.unit import Statement, StoreClosed

Batch = Sequence[Statement]
Write = Callable[[Sequence[Batch]], list[Exception | None]]
"""Run batches in one durable transaction; returns what became of each."""

GROUP_MAX: Final = 256
WAITING_MAX: Final = 10_000
PATIENCE_S: Final = 0.05
"""How long a patient batch waits for another one to share its fsync with."""


class Durable(asyncio.Future[None]):
    """A commit that was submitted. It cannot be called back: who is cancelled while he awaits it
    learns of that when it is decided.
    """

    def cancel(self, msg: object | None = None) -> bool:
        """Leave it to its end."""
        return False

    def abandon(self) -> None:
        """Tell that it will never be decided: a simulated process has died."""
        super().cancel()

    @property
    def is_kept(self) -> bool:
        """Whether it is on the disk."""
        return self.done() and not self.cancelled() and self.exception() is None


class Committer(Protocol):
    """Makes batches durable, in the order they are submitted."""

    def open(self, write: Write) -> None: ...
    def submit(self, batch: Batch, *, patient: bool = False) -> Durable: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What lies in the committer's queue."""

    batch: Batch
    durable: Durable
    patient: bool


class InlineCommitter:
    """Commits where it is called, or `latency_s()` later: for simulations."""

    def __init__(self, latency_s: Callable[[], float] | None = None) -> None:
        self._latency_s = latency_s
        self._write: Write | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    def open(self, write: Write) -> None:
        self._write = write

    def submit(self, batch: Batch, *, patient: bool = False) -> Durable:
        loop = asyncio.get_running_loop()
        future = Durable(loop=loop)
        if self._write is None:
            raise StoreClosed
        if self._latency_s is None:
            _settle(((future, self._write((batch,))[0]),))
            return future
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        loop.call_later(self._latency_s(), self._run, batch, future)
        return future

    async def close(self) -> None:
        if self._waiting:
            await asyncio.wait(tuple(self._waiting))
        self._write = None

    def _run(self, batch: Batch, future: Durable) -> None:
        if self._write is not None:
            _settle(((future, self._write((batch,))[0]),))


class ThreadCommitter:
    """One writer thread with group commit."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, write: Write) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._run, args=(write, self._loop), name="store-writer", daemon=True
        )
        self._thread.start()

    def submit(self, batch: Batch, *, patient: bool = False) -> Durable:
        if self._thread is None or self._loop is None:
            raise StoreClosed
        if self._queue.qsize() >= WAITING_MAX:
            raise StorageFault(f"more than {WAITING_MAX} units of work wait for the disk")
        durable = Durable(loop=self._loop)
        self._queue.put(_Waiting(batch, durable, patient))
        return durable

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(thread.join)

    def _run(self, write: Write, loop: asyncio.AbstractEventLoop) -> None:
        open_ = True
        while open_:
            group, open_ = self._drain()
            if not group:
                continue
            outcomes = _attempt(write, [item.batch for item in group])
            durables = [item.durable for item in group]
            loop.call_soon_threadsafe(_settle, tuple(zip(durables, outcomes, strict=True)))

    def _drain(self) -> tuple[list[_Waiting], bool]:
        """Wait for something to write, and take what else is there; False when it was the end."""
        group: list[_Waiting] = []
        item = self._queue.get()
        written_at = time.monotonic() + PATIENCE_S
        hurry = False
        while item is not None:
            group.append(item)
            hurry |= not item.patient
            left_s = 0.0 if hurry else written_at - time.monotonic()
            if len(group) >= GROUP_MAX:
                return group, True
            try:
                item = self._queue.get(left_s > 0, left_s if left_s > 0 else None)
            except queue.Empty:
                return group, True
        return group, False


def _attempt(write: Write, batches: list[Batch]) -> Sequence[Exception | None]:
    """Write, and turn a fault of the writer itself into one of every batch: the thread lives on."""
    try:
        return write(batches)
    except Exception as error:
        return [StorageFault(f"the store's writer failed: {error!r}") for _ in batches]


def _settle(outcomes: Sequence[tuple[Durable, Exception | None]]) -> None:
    for future, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
