"""Handles of activities, agreements and batches whose calls wait; names as in `shem.sdk`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shem.rest import models
from shem.sdk import activity as sdk
from shem.sdk import agreement as sdk_agreement
from shem.sdk import batch as sdk_batch
from shem.sdk.absence import Absence
from shem.sdk.batch import CommandResult
from shem.sdk.errors import ActivityGone, Ended
from shem.sdk.live import Event, Output
from shem.sdk.moving import OnProgress
from shem.sdk.report import AttachReport
from shem.sdk.script import Script
from shem.sdk.ticket import Ticket
from shem.sync.loop import BackgroundLoop


class Agreement:
    """One agreement; see `shem.Agreement`."""

    def __init__(self, loop: BackgroundLoop, handle: sdk_agreement.Agreement) -> None:
        self._loop = loop
        self._handle = handle
        self.id = handle.id

    def __repr__(self) -> str:
        return repr(self._handle)

    def info(self) -> models.Agreement:
        return self._loop.wait(self._handle.info())

    def ended(self) -> Ended | None:
        return self._loop.wait(self._handle.ended())

    def terminate(
        self,
        reason: str = "Finished",
        *,
        code: str | None = None,
        patience_s: float | None = None,
    ) -> None:
        self._loop.wait(self._handle.terminate(reason, code=code, patience_s=patience_s))


class Batch:
    """One batch; see `shem.Batch`."""

    def __init__(self, loop: BackgroundLoop, handle: sdk_batch.Batch) -> None:
        self._loop = loop
        self._handle = handle
        self.id = handle.id

    def __repr__(self) -> str:
        return repr(self._handle)

    def results(self, from_index: int = 0) -> Iterator[CommandResult]:
        return self._loop.each(self._handle.results(from_index))

    def wait(self, timeout_s: float | None = None, *, check: bool = False) -> list[CommandResult]:
        return self._loop.wait(self._handle.wait(timeout_s, check=check))

    def stream(self) -> Iterator[Output]:
        return self._loop.each(self._handle.stream())

    def events(self) -> Iterator[Event]:
        return self._loop.each(self._handle.events())

    def so_far(self) -> list[CommandResult]:
        return self._loop.wait(self._handle.so_far())


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """What the node knows of one batch; see `shem.BatchInfo`."""

    batch: Batch
    state: str
    commands: int
    results: int
    finished: bool


class Activity:
    """One rented activity; see `shem.Activity`. `with` leaves it as was agreed at `rent`."""

    def __init__(
        self,
        loop: BackgroundLoop,
        handle: sdk.Activity,
        leave: Callable[[sdk.Activity, BaseException | None], None],
    ) -> None:
        self._loop = loop
        self._handle = handle
        self._leave = leave
        self.id = handle.id
        self.agreement = Agreement(loop, handle.agreement)

    def __repr__(self) -> str:
        return repr(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave(self._handle, error)

    @property
    def report(self) -> AttachReport:
        return self._handle.report

    @property
    def detached(self) -> bool:
        return self._handle.detached

    def run(
        self, entry_point: str, *args: str, timeout_s: float | None = None, check: bool = False
    ) -> CommandResult:
        work = self._handle.run(entry_point, *args, timeout_s=timeout_s, check=check)
        return self._loop.wait(work)

    def submit(self, script: Script, *, batch_id: str | None = None) -> Batch:
        return Batch(self._loop, self._loop.wait(self._handle.submit(script, batch_id=batch_id)))

    def upload(
        self,
        local: Path | str,
        remote: str,
        *,
        format: str | None = None,
        progress: OnProgress | None = None,
    ) -> None:
        """See `shem.Activity.upload`; `progress` is called in the loop's thread."""
        work = self._handle.upload(local, remote, format=format, progress=progress)
        self._loop.wait(work)

    def download(
        self,
        remote: str,
        local: Path | str,
        *,
        format: str | None = None,
        fileset: str | tuple[str, ...] | None = None,
        progress: OnProgress | None = None,
    ) -> None:
        work = self._handle.download(
            remote, local, format=format, fileset=fileset, progress=progress
        )
        self._loop.wait(work)

    def transfer(
        self, source: str, target: str, *, progress: OnProgress | None = None, **options: Any
    ) -> None:
        self._loop.wait(self._handle.transfer(source, target, progress=progress, **options))

    def batch(self, batch_id: str) -> Batch:
        return Batch(self._loop, self._handle.batch(batch_id))

    def batches(self) -> list[BatchInfo]:
        return [
            BatchInfo(
                batch=Batch(self._loop, info.batch),
                state=info.state,
                commands=info.commands,
                results=info.results,
                finished=info.finished,
            )
            for info in self._loop.wait(self._handle.batches())
        ]

    def batch_entries(self) -> list[models.Batch]:
        return self._loop.wait(self._handle.batch_entries())

    def state(self) -> models.ActivityState:
        return self._loop.wait(self._handle.state())

    def absence(self) -> Absence:
        return self._loop.wait(self._handle.absence())

    def usage(self) -> models.ActivityUsage:
        return self._loop.wait(self._handle.usage())

    def detach(self) -> Ticket:
        return self._loop.wait(self._handle.detach())

    def destroy(self, *, patience_s: float | None = None) -> None:
        self._loop.wait(self._handle.destroy(patience_s=patience_s))

    def end(self, reason: str = "Finished", *, patience_s: float | None = None) -> None:
        self._loop.wait(self._handle.end(reason, patience_s=patience_s))

    def cursor(self, batch_id: str) -> int:
        return self._handle.cursor(batch_id)

    def read(self, batch_id: str, next_index: int) -> None:
        self._handle.read(batch_id, next_index)

    def gone(self) -> ActivityGone | None:
        return self._loop.wait(self._handle.gone())

    def raise_if_gone(self) -> None:
        self._loop.wait(self._handle.raise_if_gone())
