"""A runtime binary that knows nothing of us, in both of its modes."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from shem.exeunit.commands import Command, DeployOptions, Kind, VolumeKind, VolumeWish
from shem.exeunit.runtimes import plugin as plugin_module
from shem.exeunit.runtimes.base import Limits, RuntimeFault, Stopped, Volume
from shem.exeunit.runtimes.choice import RuntimeChoice
from shem.exeunit.runtimes.deployment import parse_deploy_reply
from shem.exeunit.runtimes.plugin import PluginRuntime
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from tests.runtime_binary import write_runtime

LIMITS = Limits(memory_size=1 << 31, storage_size=3 << 30, threads=2)


class Deployed:
    """A runtime in its work directory, and what it printed last."""

    def __init__(self, work_dir: Path, runtime: PluginRuntime) -> None:
        self.work_dir = work_dir
        self.runtime = runtime
        self.stdout = bytearray()
        self.stderr = bytearray()

    async def set_up(self, **options: Any) -> None:
        image = self.work_dir / "image"
        image.touch()
        await self.deploy(image, DeployOptions(**options))
        await self.start("a", "b")

    async def deploy(self, image: Path | None, options: DeployOptions) -> None:
        await self.runtime.deploy(image, options, self.stdout.extend, self.stderr.extend)

    async def start(self, *args: str, resume: bool = False) -> None:
        words = None if resume else args
        await self.runtime.start(words, self.stdout.extend, self.stderr.extend)

    async def run(self, entry_point: str, *args: str) -> int:
        self.stdout.clear()
        self.stderr.clear()
        command = Command(Kind.RUN, entry_point, args)
        return await self.runtime.run(command, self.stdout.extend, self.stderr.extend)

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.work_dir / "calls").read_text().splitlines()]

    def pid(self, name: str) -> int:
        return int((self.work_dir / name).read_text())

    async def until_sleeping(self) -> None:
        await until((self.work_dir / "sleeping").exists)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def deployed(tmp_path: Path, *args: str, **choice: Any) -> AsyncIterator[Deployed]:
    work_dir = tmp_path / "work"
    work_dir.mkdir(exist_ok=True)
    made = RuntimeChoice(binary=write_runtime(tmp_path), args=args, **choice)
    async with TaskScope() as scope:
        runtime = made.make(work_dir, LIMITS, World(), scope)
        assert isinstance(runtime, PluginRuntime)
        yield Deployed(work_dir, runtime)
        await runtime.stop()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Deployed]:
    async with deployed(tmp_path, "service") as found:
        await found.set_up()
        yield found


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Deployed]:
    async with deployed(tmp_path, "process") as found:
        await found.set_up()
        yield found


async def test_a_service_runs_commands_and_tells_their_output_and_code(service: Deployed) -> None:
    assert b"ready now" in service.stdout and b"booted " in service.stdout
    assert service.stderr == b"deploying"

    assert await service.run("/echo", "x", "", "y z") == 0

    assert service.stdout == b"echo x  y z"
    assert service.stderr == b"said"
    assert await service.run("/exit", "0") == 0
    assert await service.run("/exit", "41") == 41


async def test_the_command_lines_are_the_tables(tmp_path: Path) -> None:
    async with deployed(tmp_path, "service", "-x", manages_hardware=True) as found:
        volumes = {"/a": VolumeWish(VolumeKind.HOST), "/b": VolumeWish(VolumeKind.RAM, 4096)}
        await found.set_up(volumes=volumes, hostname="box")

        deploy, start = found.calls()

    common = ["--workdir", str(found.work_dir), "--task-package", str(found.work_dir / "image")]
    common += ["--cpu-cores", "2", "--mem-gib", "2.0", "--storage-gib", "3.0", "service", "-x"]
    wanted = json.dumps({"/a": {"host": {}}, "/b": {"ram": {"size": 4096}}})
    extra = ["--volume-override", wanted, "--hostname", "box"]
    assert deploy == [*common, *extra, "deploy", "--"]
    assert start == [*common, "start", "a", "b"]


async def test_a_process_for_each_command(processes: Deployed) -> None:
    assert await processes.run("echo", "x", "--", "y") == 0
    assert (processes.stdout, processes.stderr) == (b"x -- y", b"said")
    assert await processes.run("exit", "3") == 3

    common = ["--workdir", str(processes.work_dir), "--task-package"]
    common += [str(processes.work_dir / "image"), "process"]
    assert processes.calls()[1:3] == [
        [*common, "start", "--", "a", "b"],
        [*common, "run", "--entrypoint", "echo", "--", "x", "--", "y"],
    ]


async def test_what_a_program_leaves_behind_does_not_keep_its_command(processes: Deployed) -> None:
    async with asyncio.timeout(10):
        assert await processes.run("leave") == 0

    assert processes.stdout == b"left"
    await until(lambda: not alive(processes.pid("child")))


@pytest.mark.parametrize("args", [(), ("stubborn",)])
async def test_a_stop_ends_the_process_and_its_children(
    processes: Deployed, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    monkeypatch.setattr(plugin_module, "SHUT_DOWN_TIMEOUT_S", 0.2)
    running = asyncio.create_task(processes.run("sleep", *args))
    await processes.until_sleeping()

    await processes.runtime.stop()

    with pytest.raises(Stopped):
        await running
    await until(lambda: not alive(processes.pid("child")))
    await until(lambda: not alive(processes.pid("sleeping")))
    assert await processes.run("echo", "again") == 0


async def test_volumes_are_directories_of_the_work_dir(service: Deployed) -> None:
    assert await service.runtime.volumes() == (Volume("/in", service.work_dir / "vol-1"),)


async def test_counters_of_the_runtime_are_the_last_told(service: Deployed) -> None:
    await service.run("/count", "golem.usage.custom", "1.5")
    await service.run("/count", "golem.usage.custom", "2.5")
    await service.run("/count", "golem.usage.bad", "nan")

    assert service.runtime.counters() == {"golem.usage.custom": 2.5}


async def test_output_before_the_answer_belongs_to_its_process(service: Deployed) -> None:
    assert await service.run("/early") == 0

    assert service.stdout == b"before after"


async def test_a_refused_run_is_an_error_and_the_service_goes_on(service: Deployed) -> None:
    with pytest.raises(RuntimeFault, match="Runtime error: not this one"):
        await service.run("/refuse")

    assert await service.run("/exit", "0") == 0


@pytest.mark.parametrize(
    ("entry_point", "message"),
    [("/die", "ended with exit code 4"), ("/garble", "the runtime is gone")],
)
async def test_a_service_that_goes_takes_its_command_with_it(
    service: Deployed, entry_point: str, message: str
) -> None:
    with pytest.raises(RuntimeFault, match=message):
        await service.run(entry_point, "4")

    with pytest.raises(RuntimeFault, match="not running: terminate"):
        await service.run("/exit", "0")
    await service.runtime.stop()
    await service.set_up()
    assert await service.run("/exit", "0") == 0
    assert len(marked(service.work_dir)) == 1


async def test_a_stop_asks_the_service_to_shut_down(service: Deployed) -> None:
    running = asyncio.create_task(service.run("/sleep"))
    await service.until_sleeping()

    await service.runtime.stop()

    with pytest.raises(Stopped):
        await running
    assert (service.work_dir / "shut-down").exists()
    await until(lambda: not alive(service.pid("sleeping")))
    await until(lambda: not alive(service.pid("child")))


async def test_a_stubborn_service_is_killed(
    service: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_module, "SHUT_DOWN_TIMEOUT_S", 0.2)
    (service.work_dir / "stubborn").touch()
    running = asyncio.create_task(service.run("/sleep"))
    await service.until_sleeping()

    async with asyncio.timeout(10):
        await service.runtime.stop()

    with pytest.raises(Stopped):
        await running
    await until(lambda: not alive(service.pid("child")))


async def test_the_next_exe_unit_starts_the_service_with_the_same_arguments(tmp_path: Path) -> None:
    async with deployed(tmp_path, "service") as first:
        await first.set_up()
        assert await first.run("/write", "vol-1/note", "kept") == 0

    async with deployed(tmp_path, "service") as second:
        await second.start(resume=True)

        assert await second.run("/exit", "2") == 2
        assert second.calls()[-1][-3:] == ["start", "a", "b"]
        assert (second.work_dir / "vol-1" / "note").read_text() == "kept"


@pytest.mark.parametrize("mode", ["service", "process"])
async def test_a_runtime_that_does_not_start_says_its_code(tmp_path: Path, mode: str) -> None:
    async with deployed(tmp_path, mode, "unstartable") as found:
        with pytest.raises(RuntimeFault, match=r"exit(ed with)? code [67]"):
            await found.set_up()


async def test_an_unfriendly_service_is_not_started_and_not_left_behind(tmp_path: Path) -> None:
    async with deployed(tmp_path, "service", "--unfriendly") as found:
        with pytest.raises(RuntimeFault, match="no hello today"):
            await found.set_up()

        assert marked(found.work_dir) == []


def marked(work_dir: Path) -> list[int]:
    return [process.pid for process in psutil.process_iter() if _is_marked(process, work_dir)]


def _is_marked(process: psutil.Process, work_dir: Path) -> bool:
    try:
        return process.environ().get("SHEM_RUNTIME_OF") == str(work_dir)
    except psutil.Error:
        return False


async def test_a_deploy_that_fails_is_an_error(tmp_path: Path) -> None:
    async with deployed(tmp_path, "undeployable") as found:
        with pytest.raises(RuntimeFault, match="deploy exited with code 5"):
            await found.set_up()


@pytest.mark.parametrize(
    ("manages_image", "networks", "message"),
    [
        (False, False, "task package .* was not provided"),
        (True, True, "VPN networks .* not supported"),
    ],
)
async def test_deployments_that_cannot_be_are_refused(
    tmp_path: Path, manages_image: bool, networks: bool, message: str
) -> None:
    async with deployed(tmp_path, "process", manages_image=manages_image) as found:
        with pytest.raises(RuntimeFault, match=message):
            await found.deploy(None, DeployOptions(networks=networks))
        assert not (found.work_dir / "calls").exists()


async def test_a_runtime_that_finds_its_image_itself_is_given_none(tmp_path: Path) -> None:
    async with deployed(tmp_path, "process", manages_image=True) as found:
        await found.deploy(None, DeployOptions())

        assert "--task-package" not in found.calls()[0]


async def test_a_flood_of_output_is_taken_at_its_own_pace(service: Deployed) -> None:
    received = 0

    def sink(data: bytes) -> None:
        nonlocal received
        received += len(data)

    code = await service.runtime.run(Command(Kind.RUN, "/flood", ("200",)), sink, sink)

    assert code == 0
    assert received == 200 * 65_536


async def test_a_missing_binary_is_an_error(tmp_path: Path) -> None:
    async with deployed(tmp_path, "process") as found:
        (tmp_path / "ya-runtime-small").unlink()

        with pytest.raises((RuntimeFault, OSError)):
            await found.set_up()


async def test_the_template_and_the_test_of_a_binary(tmp_path: Path) -> None:
    choice = RuntimeChoice(binary=write_runtime(tmp_path))

    template = await choice.offer_template(World())

    assert template["constraints"] == "(golem.x=1)"
    assert template["properties"]["golem.runtime.capabilities"] == [
        "manifest-support",
        "small",
    ]
    assert "golem.usage.cpu_sec" in template["properties"]["golem.com.usage.vector"]
    assert await choice.check(World()) == "small and well"
    ill = RuntimeChoice(binary=choice.binary, args=("ill",))
    with pytest.raises(RuntimeFault, match="exited with code 3: small and well"):
        await ill.check(World())


@pytest.mark.parametrize(
    "text",
    [
        "no json at all",
        "{broken",
        '{"startMode": "sideways"}',
        '{"vols": 1}',
        '{"vols": [{"name": "v"}]}',
        '{"vols": [{"name": "../v", "path": "/in"}]}',
        '{"vols": [{"name": "..", "path": "/in"}]}',
        '{"vols": [{"name": "v", "path": "in"}]}',
        '{"vols": [{"name": "v", "path": "/in/../.."}]}',
        json.dumps({"vols": [{"name": f"v{i}", "path": f"/{i}"} for i in range(65)]}),
    ],
)
def test_unusable_deploy_replies_are_refused(text: str) -> None:
    with pytest.raises(RuntimeFault, match=r"deploy response|at most"):
        parse_deploy_reply(text, None)


def test_an_empty_deploy_reply_means_no_volumes_and_a_process_for_each_command() -> None:
    deployment = parse_deploy_reply(" \n", None)

    assert (deployment.volumes, deployment.is_service) == ({}, False)


def test_this_process_has_no_mark() -> None:
    assert "SHEM_RUNTIME_OF" not in os.environ
