"""Structured tasks: every background loop lives in a `TaskScope`, which ends with its owner."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Self

import structlog

log = structlog.get_logger()


class TaskScope:
    """A task group that is cancelled on exit, and whose failures end the owner loudly.

    Unlike `asyncio.TaskGroup`, leaving the block cancels what still runs: the tasks are service
    loops, not work to wait for. A loop that raises cancels the owner with that exception; one
    failure comes out as itself, several as a group.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[object]] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as failures:
            if len(failures.exceptions) > 1:
                raise
            if failures.exceptions[0] is not error:  # else the block's own failure goes on as it is
                raise failures.exceptions[0] from None

    def spawn(self, work: Coroutine[object, object, object], name: str) -> None:
        """Run `work` until it ends or the scope does."""
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def size(self) -> int:
        return len(self._tasks)
