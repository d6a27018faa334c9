"""`Golem`, maps and services whose calls wait; names and arguments as in `shem.sdk.golem`."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar, Unpack

from shem.kernel.world import World
from shem.sdk import activity as sdk
from shem.sdk import golem as sdk_golem
from shem.sdk import map as sdk_map
from shem.sdk import running as sdk_running
from shem.sdk import service as sdk_service
from shem.sdk.errors import CommandFailed
from shem.sdk.golem import EXPIRES, RENT_TIMEOUT_S, LeavingOptions, MapOptions
from shem.sdk.opening import OnExit, Opening
from shem.sdk.patience import PATIENCE_S
from shem.sdk.payloads import Payload
from shem.sdk.progress import Recomputation
from shem.sdk.script import Script
from shem.sdk.service import Results, ServiceState, Steps
from shem.sdk.ticket import Ticket
from shem.sync.handles import Activity, Batch
from shem.sync.loop import BackgroundLoop

I = TypeVar("I")  # noqa: E741
PlainSteps = Generator[Script, Results, None]


class Service:
    """As `shem.Service`, with plain generators; they run in threads and may block."""

    activity: Activity
    left: Batch | None = None

    def start(self) -> PlainSteps:
        yield from ()

    def run(self) -> PlainSteps:
        yield from ()

    def shutdown(self) -> PlainSteps:
        yield from ()


class Golem:
    """A session with a node; see `shem.Golem`."""

    def __init__(
        self,
        app: str = "shem",
        *,
        api_url: str | None = None,
        app_key: str | None = None,
        gsb_url: str | None = None,
        subnet: str | None = None,
        network: str | None = None,
        patience: timedelta | float = PATIENCE_S,
        world: World | None = None,
    ) -> None:
        self._handle = sdk_golem.Golem(
            app,
            api_url=api_url,
            app_key=app_key,
            gsb_url=gsb_url,
            subnet=subnet,
            network=network,
            patience=patience,
            world=world,
        )
        self._loop: BackgroundLoop | None = None

    def __enter__(self) -> Self:
        self._loop = BackgroundLoop()
        try:
            self._loop.wait(self._handle.__aenter__())
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        loop = self._running
        try:
            loop.wait(self._handle.__aexit__(kind, error, trace))
        finally:
            loop.close()

    @property
    def _running(self) -> BackgroundLoop:
        if self._loop is None:
            self._handle.session  # noqa: B018 — says that it is not open
            raise AssertionError
        return self._loop

    @property
    def identity(self) -> str:
        return self._handle.identity

    @property
    def session(self) -> object:
        return self._handle.session

    def rent(
        self,
        payload: Payload,
        *,
        expires: timedelta = EXPIRES,
        timeout: timedelta | float = RENT_TIMEOUT_S,
        provider: str | None = None,
        on_exit: OnExit = "end",
        **terms: Unpack[LeavingOptions],
    ) -> Activity:
        opening = self._handle.rent(
            payload, expires=expires, timeout=timeout, provider=provider, on_exit=on_exit, **terms
        )
        return self._open(opening)

    def attach(self, target: str | Ticket, *, on_exit: OnExit = "detach") -> Activity:
        return self._open(self._handle.attach(target, on_exit=on_exit))

    def _open(self, opening: Opening) -> Activity:
        async def opened() -> sdk.Activity:
            return await opening

        return Activity(self._running, self._running.wait(opened()), self.leave)

    def tickets(self) -> list[Ticket]:
        return self._running.wait(self._handle.tickets())

    def map(
        self,
        script_of: Callable[[I], Script],
        inputs: Iterable[I],
        *,
        payload: Payload,
        name: str,
        expires: timedelta = EXPIRES,
        timeout: timedelta | float = RENT_TIMEOUT_S,
        provider: str | None = None,
        **options: Unpack[MapOptions],
    ) -> "Mapping[I]":
        """See `shem.Golem.map`: `with` it and iterate, or call `all()`."""
        mapping = self._handle.map(
            script_of,
            inputs,
            payload=payload,
            name=name,
            expires=expires,
            timeout=timeout,
            provider=provider,
            **options,
        )
        return Mapping(self._running, mapping)

    def service(
        self,
        service: Service,
        *,
        payload: Payload,
        name: str,
        expires: timedelta = EXPIRES,
        timeout: timedelta | float = RENT_TIMEOUT_S,
        provider: str | None = None,
        respawn: bool = False,
        on_exit: OnExit = "end",
        state_dir: Path | str | None = None,
        **terms: Unpack[LeavingOptions],
    ) -> "Running":
        """See `shem.Golem.service`."""
        running = self._handle.service(
            _Adapted(service, self._running, self.leave),
            payload=payload,
            name=name,
            expires=expires,
            timeout=timeout,
            provider=provider,
            respawn=respawn,
            on_exit=on_exit,
            state_dir=state_dir,
            **terms,
        )
        return Running(self._running, running, service, self.leave)

    def keep(self, activity: Activity, on_exit: OnExit) -> None:
        self._handle.keep(activity._handle, on_exit)

    def leave(self, activity: sdk.Activity, error: BaseException | None) -> None:
        self._running.wait(self._handle.leave(activity, error))


class Mapping(Generic[I]):
    """A map under way; see `shem.Mapping`."""

    def __init__(self, loop: BackgroundLoop, handle: "sdk_map.Mapping[I]") -> None:
        self._loop = loop
        self._handle = handle
        self.name = handle.name

    def __enter__(self) -> Self:
        self._loop.wait(self._handle.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.wait(self._handle.__aexit__(kind, error, trace))

    def __iter__(self) -> "Iterator[sdk_map.Done[I]]":
        return self._loop.each(aiter(self._handle))

    def all(self) -> "list[sdk_map.Done[I]]":
        """Compute everything and return it in the order of the inputs."""
        return self._loop.wait(self._handle.all())

    @property
    def recomputed(self) -> tuple[Recomputation, ...]:
        return self._handle.recomputed

    @property
    def workers(self) -> tuple[Activity, ...]:
        found = self._handle.workers
        return tuple(Activity(self._loop, activity, _keep) for activity in found)


class Running:
    """A service as it runs; see `shem.Running`."""

    def __init__(
        self,
        loop: BackgroundLoop,
        handle: sdk_running.Running,
        service: Service,
        leave: Callable[[sdk.Activity, BaseException | None], None],
    ) -> None:
        self._loop = loop
        self._handle = handle
        self._leave = leave
        self.name = handle.name
        self.service = service

    def __enter__(self) -> Self:
        self._loop.wait(self._handle.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.wait(self._handle.__aexit__(kind, error, trace))

    @property
    def resumed(self) -> bool:
        return self._handle.resumed

    @property
    def state(self) -> ServiceState:
        return self._handle.state

    @property
    def activity(self) -> Activity:
        return Activity(self._loop, self._handle.activity, self._leave)

    def wait(self) -> None:
        self._loop.wait(self._handle.wait())

    def stop(self) -> None:
        self._loop.wait(self._handle.stop())

    def suspend(self) -> Ticket:
        return self._loop.wait(self._handle.suspend())


def _keep(activity: sdk.Activity, error: BaseException | None) -> None:
    """Leave a worker to its map."""
    del activity, error


class _Adapted(sdk_service.Service):
    """A service of plain generators as one of async generators."""

    def __init__(
        self,
        plain: Service,
        loop: BackgroundLoop,
        leave: Callable[[sdk.Activity, BaseException | None], None],
    ) -> None:
        self._plain = plain
        self._loop = loop
        self._leave = leave

    def _meet(self) -> None:
        self._plain.activity = Activity(self._loop, self.activity, self._leave)
        self._plain.left = None if self.left is None else Batch(self._loop, self.left)

    def start(self) -> Steps:
        self._meet()
        return _stepwise(self._plain.start())

    def run(self) -> Steps:
        self._meet()
        return _stepwise(self._plain.run())

    def shutdown(self) -> Steps:
        self._meet()
        return _stepwise(self._plain.shutdown())


async def _stepwise(steps: PlainSteps) -> AsyncGenerator[Script, Results]:
    """Drive a generator from a thread, so that it may block."""
    step: Callable[[], Script] = lambda: next(steps)  # noqa: E731
    try:
        while (script := await asyncio.to_thread(_next, step)) is not None:
            try:
                results = yield script
            except CommandFailed as failure:
                step = _throwing(steps, failure)
            else:
                step = _sending(steps, results)
    finally:
        with contextlib.suppress(ValueError):  # it is still in a step, in its thread
            steps.close()


def _sending(steps: PlainSteps, results: Results) -> Callable[[], Script]:
    return lambda: steps.send(results)


def _throwing(steps: PlainSteps, failure: CommandFailed) -> Callable[[], Script]:
    return lambda: steps.throw(failure)


def _next(step: Callable[[], Script]) -> Script | None:
    """Take a step; None at the end, since StopIteration cannot pass between threads."""
    try:
        return step()
    except StopIteration:
        return None
