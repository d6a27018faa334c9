"""Simulated processes: tasks that die, stop and go on together, inside one event loop.

A process is a context variable: whatever is started inside one belongs to it. A process that is
killed runs not one step more; only then are its tasks cleared away, its sockets and files closed,
and nothing that they do on the way down reaches anybody (`alive` is false by then). It can be
killed at any `await` of any of its tasks, or at any other point that it passes (`at_point`).
"""

import asyncio
import contextvars
import socket
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from typing import Any, TypeVar

from tests.sim.virtual_time import VirtualTimeLoop

T = TypeVar("T")

CLEARING_ROUNDS = 200
_CURRENT: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)


class Died(OSError):
    """What a dead process is told by the world, if it should still ask."""


def current() -> "Process | None":
    return _CURRENT.get()


class Process:
    """One process of the simulated world, from its start to its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.points = 0
        """Awaits and other points passed so far."""
        self.dies_at: int | None = None
        self.ended: asyncio.Event = asyncio.Event()
        self.at_death: list[Callable[[], object]] = []
        """Closes what the system would close."""
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """In the order of their start: the same in every run."""
        self._context = contextvars.copy_context()
        self._context.run(_CURRENT.set, self)
        self._clearing = False
        self._standing: list[asyncio.Future[None]] | None = None

    def __repr__(self) -> str:
        return f"Process({self.name!r}, alive={self.alive}, points={self.points})"

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run work as a task of this process."""
        return self._context.copy().run(asyncio.ensure_future, work)

    def run(self, fn: Callable[..., T], *args: Any) -> T:
        """Call a function inside this process."""
        return self._context.copy().run(fn, *args)

    # ---- stopping and going on -----------------------------------------------------------------

    def pause(self) -> None:
        """Stop all tasks, as SIGSTOP does."""
        if self._standing is None:
            self._standing = []

    def resume(self) -> None:
        standing, self._standing = self._standing or [], None
        for future in standing:
            if not future.done():
                future.set_result(None)

    @property
    def is_paused(self) -> bool:
        return self._standing is not None

    def resumed(self) -> asyncio.Future[None]:
        """Return what is done when the process goes on."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._standing is None:
            future.set_result(None)
        else:
            self._standing.append(future)
        return future

    # ---- dying -----------------------------------------------------------------------------------

    def at_point(self) -> bool:
        """Pass a point; False when the process died there."""
        self.points += 1
        if self.alive and self.dies_at is not None and self.points >= self.dies_at:
            self.kill()
        return self.alive

    def kill(self) -> None:
        """Die now: nothing of this process runs another step."""
        if not self.alive:
            return
        self.alive = False
        self.resume()
        _outside(self._die)

    def _die(self) -> None:
        while self.at_death:
            self.at_death.pop()()
        asyncio.get_running_loop().create_task(self._clear(), name=f"clearing {self.name}")

    async def _clear(self) -> None:
        """Take the tasks away; those that will not go stay frozen."""
        self._clearing = True
        for _ in range(CLEARING_ROUNDS):
            left = [task for task in self.tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.sleep(0)
        self._clearing = False
        self.tasks.clear()
        self.ended.set()

    @property
    def is_frozen(self) -> bool:
        return not self.alive and not self._clearing

    def never(self) -> Any:
        """Return what a task waits for that is not to go on."""
        return _awaited(asyncio.get_running_loop().create_future())


def _outside(fn: Callable[[], object]) -> None:
    """Call a function inside no process."""
    context = contextvars.copy_context()
    context.run(_CURRENT.set, None)
    context.run(fn)


def _awaited(future: asyncio.Future[Any]) -> asyncio.Future[Any]:
    future._asyncio_future_blocking = True
    return future


class _Steps(Coroutine[Any, Any, Any]):
    """A coroutine of a process: every step is a point at which the process may die or stand."""

    def __init__(self, inner: Coroutine[Any, Any, Any], process: Process) -> None:
        self._inner = inner
        self._process = process
        self._held: list[tuple[str, tuple[Any, ...]]] = []
        self.__name__ = getattr(inner, "__name__", "coroutine")
        self.__qualname__ = getattr(inner, "__qualname__", "coroutine")

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def send(self, value: Any) -> Any:
        return self._step("send", value)

    def throw(self, *error: Any) -> Any:
        return self._step("throw", *error)

    def close(self) -> None:
        self._inner.close()

    def _step(self, kind: str, *args: Any) -> Any:
        process = self._process
        is_late = kind == "throw" and process.ended.is_set()  # the loop is being closed
        if not is_late and (process.is_frozen or (process.alive and not process.at_point())):
            return process.never()
        if process.is_paused:
            self._held.append((kind, args))
            return _awaited(process.resumed())
        if self._held:
            kind, args = self._first_held(kind, args)
        return getattr(self._inner, kind)(*args)

    def _first_held(self, kind: str, args: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        """Return what the task was woken with when it stood; a cancellation outdoes it."""
        held, self._held = self._held, []
        if kind == "throw":
            return kind, args
        return next((item for item in held if item[0] == "throw"), held[0])


class ProcessLoop(VirtualTimeLoop):
    """A virtual-time loop that knows of processes; threads' work is done in place."""

    def __init__(self) -> None:
        super().__init__()
        self.set_task_factory(_make_task)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        process = current()
        done: asyncio.Future[T] = self.create_future()
        if process is not None and not (process.alive and process.at_point()):
            if not process.is_frozen:
                done.set_exception(Died("the process is dead"))
            return done
        try:
            result = func(*args)
        except Exception as error:
            done.set_exception(error)
        else:
            if process is None or process.at_point():
                done.set_result(result)
        return done

    def _make_socket_transport(self, *args: Any, **options: Any) -> Any:
        transport = super()._make_socket_transport(*args, **options)  # type: ignore[misc]
        _owned(transport.abort)
        return transport

    def _close_listener(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self.remove_reader(listener)
            listener.close()

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        listener = options.get("sock")
        if listener is not None:
            _owned(lambda: self._close_listener(listener))
        server = await super().create_server(*args, **options)
        _owned(server.close)
        return server


def _owned(close: Callable[[], object]) -> None:
    process = current()
    if process is not None:
        process.at_death.append(close)


def _make_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    context = options.get("context")
    process = _CURRENT.get() if context is None else context.get(_CURRENT)
    if process is None:
        return asyncio.Task(work, loop=loop, **options)
    task = asyncio.Task(_Steps(work, process), loop=loop, **options)
    process.tasks[task] = None
    task.add_done_callback(lambda _: process.tasks.pop(task, None))
    return task


def run_processes(work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, and the processes that it starts, on virtual time."""
    with asyncio.Runner(loop_factory=ProcessLoop) as runner:
        return runner.run(work)
