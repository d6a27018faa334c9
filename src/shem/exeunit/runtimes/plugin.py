"""A runtime binary: any program with the command line and protocol of Golem's runtimes.

Two modes, chosen by what `deploy` prints (docs/protocol/activity-exeunit.md §9.1–§9.4): a process
for each command, or one service that `start` brings up and that runs all commands. The service dies
with the ExeUnit and is started again, with the same arguments, by the next one.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

import structlog

from shem.exeunit.commands import Command, DeployOptions
from shem.exeunit.outbound.gateway import Gateway
from shem.exeunit.runtimes.base import (
    Limits,
    RuntimeFault,
    Sink,
    Stopped,
    Volume,
)
from shem.exeunit.runtimes.children import CHUNK_SIZE, Child, Children
from shem.exeunit.runtimes.deployment import (
    Deployment,
    parse_deploy_reply,
    read_deployment,
    write_deployment,
)
from shem.exeunit.runtimes.service_link import ServiceLink
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World

GREETING_TIMEOUT_S: Final = 120.0
"""A virtual machine may take its time to boot."""
SHUT_DOWN_TIMEOUT_S: Final = 2.0
"""Of the 3.5 s in which the whole ExeUnit has to end."""
DEPLOY_REPLY_SIZE_MAX: Final = 1 << 20
DRAIN_TIMEOUT_S: Final = 0.3
"""How long the output of a program that has ended may take to end."""
QUESTION_TIMEOUT_S: Final = 30.0
_GIB: Final = 1 << 30

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """How a runtime binary is called."""

    command: tuple[str, ...]
    """The binary with what has to stand before any argument."""
    args: tuple[str, ...] = ()
    """`-r`: appended to the common arguments of every call."""
    limits: Limits | None = None
    """`--runtime-managed-hardware`: what the runtime is told to keep to."""
    needs_image: bool = True
    way_out: Gateway | None = None
    """Leads programs of the service to what the agreement grants."""

    def call(self, work_dir: Path, image: Path | None, *rest: str) -> list[str]:
        """Return the command line of one call."""
        words = [*self.command, "--workdir", str(work_dir)]
        if image is not None:
            words += ["--task-package", str(image)]
        if self.limits is not None:
            words += _hardware(self.limits)
        return [*words, *self.args, *rest]


def _hardware(limits: Limits) -> list[str]:
    words: list[str] = []
    if limits.threads is not None:
        words += ["--cpu-cores", str(limits.threads)]
    if limits.memory_size is not None:
        words += ["--mem-gib", repr(limits.memory_size / _GIB)]
    if limits.storage_size is not None:
        words += ["--storage-gib", repr(limits.storage_size / _GIB)]
    return words


class PluginRuntime:
    """One deployment run by a runtime binary."""

    def __init__(self, plugin: Plugin, work_dir: Path, world: World, scope: TaskScope) -> None:
        self._plugin = plugin
        self._work_dir = work_dir
        self._scope = scope
        self._children = Children(work_dir, world)
        self._child: Child | None = None
        """The process of the command that runs, in process-per-command mode."""
        self._service: ServiceLink | None = None
        self._stopping = False

    async def deploy(
        self, image: Path | None, options: DeployOptions, stdout: Sink, stderr: Sink
    ) -> None:
        self._stopping = False
        if image is None and self._plugin.needs_image:
            raise RuntimeFault("task package (image) path was not provided")
        if options.networks:
            raise RuntimeFault("VPN networks (net) are not supported yet by this ExeUnit")
        rest: list[str] = []
        if options.volumes:
            rest += ["--volume-override", _wishes(options)]
        if options.hostname is not None:
            rest += ["--hostname", options.hostname]
        said = bytearray()
        command = self._plugin.call(self._work_dir, image, *rest, "deploy", "--")
        code = await self._one_process(command, _bounded(said, DEPLOY_REPLY_SIZE_MAX), stderr)
        if code != 0:
            raise RuntimeFault(f"the runtime's deploy exited with code {code}")
        stdout(bytes(said))
        deployment = parse_deploy_reply(said.decode(errors="replace"), image)
        await asyncio.to_thread(write_deployment, self._work_dir, deployment)

    async def start(self, args: Sequence[str] | None, stdout: Sink, stderr: Sink) -> None:
        deployment = await self._deployment()
        if args is None:
            await asyncio.to_thread(self._children.sweep)
        words = tuple(args if args is not None else deployment.start_args or ())
        self._stopping = False
        if deployment.is_service:
            await self._start_service(deployment, words, stdout, stderr)
        else:
            command = self._plugin.call(self._work_dir, deployment.image, "start", "--", *words)
            code = await self._one_process(command, stdout, stderr)
            if code != 0:
                raise RuntimeFault(f"the runtime's start exited with code {code}")
        started = replace(deployment, start_args=words)
        await asyncio.to_thread(write_deployment, self._work_dir, started)

    async def run(self, command: Command, stdout: Sink, stderr: Sink) -> int:
        self._stopping = False
        deployment = await self._deployment()
        if not deployment.is_service:
            words = self._plugin.call(
                self._work_dir,
                deployment.image,
                "run",
                *("--entrypoint", command.entry_point, "--", *command.args),
            )
            return await self._one_process(words, stdout, stderr)
        service = self._service
        if service is None:
            raise RuntimeFault("the runtime is not running: terminate, deploy and start again")
        name = PurePosixPath(command.entry_point).name or command.entry_point
        try:
            return await service.run(command.entry_point, (name, *command.args), stdout, stderr)
        except RuntimeFault as fault:
            raise await self._explained(service, fault) from fault

    async def stop(self) -> None:
        self._stopping = True
        service, self._service = self._service, None
        if service is not None:
            await self._end_service(service)
        if self._child is not None:
            await self._children.end(self._child, patience_s=SHUT_DOWN_TIMEOUT_S)

    async def volumes(self) -> tuple[Volume, ...]:
        return (await self._deployment()).places(self._work_dir)

    def counters(self) -> Mapping[str, float]:
        own = {} if self._service is None else self._service.counters
        way_out = self._plugin.way_out
        return own if way_out is None else {**own, **way_out.counters()}

    async def _deployment(self) -> Deployment:
        return await asyncio.to_thread(read_deployment, self._work_dir)

    async def _one_process(self, command: Sequence[str], stdout: Sink, stderr: Sink) -> int:
        """Run one process to its end; Stopped when `stop` ended it."""
        child = await self._children.start(command)
        self._child = child
        assert child.stderr is not None
        child.stdin.close()
        try:
            async with asyncio.TaskGroup() as group:
                pumps = [
                    group.create_task(_pump(child.stdout, stdout)),
                    group.create_task(_pump(child.stderr, stderr)),
                ]
                code = await child.wait()
                await self._drain(child, pumps)
        finally:
            self._child = None
            if child.returncode is None:
                await self._children.end(child, patience_s=0.0)
            child.close()
        if self._stopping:
            raise Stopped("the command was stopped")
        return code

    async def _drain(self, child: Child, pumps: Sequence["asyncio.Task[None]"]) -> None:
        """Read the rest of an output; what the program left behind does not keep it open."""
        _, waiting = await asyncio.wait(pumps, timeout=DRAIN_TIMEOUT_S)
        if waiting:
            await self._children.end(child, patience_s=0.0)
            _, waiting = await asyncio.wait(waiting, timeout=DRAIN_TIMEOUT_S)
        for pump in waiting:
            pump.cancel()

    async def _start_service(
        self, deployment: Deployment, args: Sequence[str], stdout: Sink, stderr: Sink
    ) -> None:
        way_out = self._plugin.way_out
        options: list[str] = []
        if way_out is not None:
            await way_out.prepare()
            options = way_out.options()
        command = self._plugin.call(self._work_dir, deployment.image, *options, "start", *args)
        offset = await asyncio.to_thread(self._children.log_size)
        child = await self._children.start(command, to_log=True)
        service = ServiceLink(child, stdout, stderr)
        self._scope.spawn(service.serve(), "runtime service")
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                await service.hello()
            if way_out is not None:
                await way_out.open()
            self._service = service
        except TimeoutError:
            raise RuntimeFault(f"the runtime was not up in {GREETING_TIMEOUT_S:g} s") from None
        except RuntimeFault as fault:
            explained = await self._explained(service, fault)
            stderr(await asyncio.to_thread(self._children.read_log, offset))
            raise explained from fault
        finally:
            service.started()
            if self._service is not service:
                if way_out is not None:
                    await way_out.close()
                await self._children.end(child, patience_s=0.0)
                child.close()

    async def _end_service(self, service: ServiceLink) -> None:
        if self._plugin.way_out is not None:
            await self._plugin.way_out.close()
        try:
            async with asyncio.timeout(SHUT_DOWN_TIMEOUT_S):
                await service.shut_down()
                await service.child.wait()
        except (TimeoutError, RuntimeFault) as error:
            log.info("runtime.not_orderly", reason=str(error))
        await self._children.end(service.child, patience_s=0.0)
        service.child.close()

    async def _explained(self, service: ServiceLink, fault: RuntimeFault) -> RuntimeFault:
        """Say more of a fault that came because the service has ended."""
        if service.ended is None:
            return fault
        if self._service is service:
            self._service = None
        child = service.child
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                code = await child.wait()
        except TimeoutError:
            await self._children.end(child, patience_s=0.0)
            return fault
        finally:
            child.close()
        if self._stopping:
            return Stopped("the command was stopped")
        return RuntimeFault(f"the runtime ended with exit code {code}")


def _wishes(options: DeployOptions) -> str:
    return json.dumps({path: wish.wire() for path, wish in options.volumes.items()})


async def _pump(stream: asyncio.StreamReader, sink: Sink) -> None:
    while data := await stream.read(CHUNK_SIZE):
        sink(data)


def _bounded(kept: bytearray, size_max: int) -> Sink:
    def sink(data: bytes) -> None:
        kept.extend(data[: size_max - len(kept)])

    return sink


async def ask(plugin: Plugin, question: str, work_dir: Path, world: World) -> tuple[int, bytes]:
    """Call `offer-template` or `test`; return the exit code and what was printed."""
    children = Children(work_dir, world)
    try:
        child = await children.start([*plugin.command, *plugin.args, question])
    except OSError as error:
        raise RuntimeFault(f"the runtime cannot be started: {error}") from error
    said = bytearray()
    assert child.stderr is not None
    try:
        async with asyncio.timeout(QUESTION_TIMEOUT_S), asyncio.TaskGroup() as group:
            group.create_task(_pump(child.stdout, _bounded(said, DEPLOY_REPLY_SIZE_MAX)))
            group.create_task(_pump(child.stderr, _bounded(said, DEPLOY_REPLY_SIZE_MAX)))
            code = await child.wait()
    except TimeoutError:
        raise RuntimeFault(f"the runtime did not answer {question} in time") from None
    finally:
        if child.returncode is None:
            await children.end(child, patience_s=0.0)
    return code, bytes(said)
