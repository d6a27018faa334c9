"""How a long-running command runs and ends: SIGTERM, SIGINT and SIGQUIT ask it to, once."""

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

YOUNG_OBJECTS_MAX: Final = 10_000
"""New objects between two looks for cycles among them; nearly all are freed without."""

Serve = Callable[[asyncio.Event], Awaitable[None]]


@contextmanager
def loading() -> Iterator[None]:
    """Load modules that stay for the life of the process: no collection looks at them, ever."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS_MAX)
        gc.enable()


def serve_until_stopped(serve: Serve) -> None:
    """Run `serve`, which returns soon after the event it is given was set."""
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        runner.run(_with_signals(serve))


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # pragma: no cover - platforms without uvloop use asyncio's own loop
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _with_signals(serve: Serve) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        await serve(stop)
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
