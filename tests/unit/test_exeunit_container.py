"""Containers for real: an image with BusyBox, its service, its volumes, and its end."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from shem.devnet.image import Image, pack_image, write_image, write_tree
from shem.exeunit.commands import Command, DeployOptions, Kind, VolumeKind, VolumeWish
from shem.exeunit.runtimes.base import Limits, Runtime, RuntimeFault, Stopped
from shem.exeunit.runtimes.choice import BuiltIn, RuntimeChoice
from shem.exeunit.runtimes.container import namespaces
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from tests.busybox_image import requires_container

pytestmark = requires_container()
CHOICE = RuntimeChoice(built_in=BuiltIn.CONTAINER)
LIMITS = Limits(memory_size=256 << 20, storage_size=1 << 30, threads=2)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return write_image(tmp_path_factory.mktemp("image"))


class Container:
    """A container, and what its last command printed."""

    def __init__(self, work_dir: Path, runtime: Runtime) -> None:
        self.work_dir = work_dir
        self.runtime = runtime
        self.stdout = bytearray()
        self.stderr = bytearray()

    async def deploy(self, image: Image, **options: Any) -> None:
        await self.runtime.deploy(
            image.path, DeployOptions(**options), self.stdout.extend, self.stderr.extend
        )

    async def start(self, *args: str) -> None:
        await self.runtime.start(args, self.stdout.extend, self.stderr.extend)

    async def resume(self) -> None:
        await self.runtime.start(None, self.stdout.extend, self.stderr.extend)

    async def run(self, *command: str) -> int:
        self.stdout.clear()
        self.stderr.clear()
        found = Command(Kind.RUN, command[0], command[1:])
        return await self.runtime.run(found, self.stdout.extend, self.stderr.extend)

    async def sh(self, script: str) -> str:
        """Run a shell script that works, and return what it printed."""
        code = await self.run("/bin/sh", "-c", script)
        assert code == 0, (code, bytes(self.stderr))
        return self.stdout.decode()

    async def volume(self, path: str) -> Path:
        found = {volume.path: volume.directory for volume in await self.runtime.volumes()}
        return found[path]


@asynccontextmanager
async def container(work_dir: Path, limits: Limits = LIMITS) -> AsyncIterator[Container]:
    await asyncio.to_thread(work_dir.mkdir, exist_ok=True)
    async with TaskScope() as scope:
        found = Container(work_dir, CHOICE.make(work_dir, limits, World(), scope))
        try:
            yield found
        finally:
            await found.runtime.stop()


@pytest.fixture
async def started(tmp_path: Path, image: Image) -> AsyncIterator[Container]:
    async with container(tmp_path / "work") as found:
        await found.deploy(image)
        await found.start()
        yield found


async def test_it_works_here_and_offers_what_is_true() -> None:
    assert await CHOICE.check(World()) == "ok"

    template = await CHOICE.offer_template(World())

    assert template["properties"]["golem.runtime.capabilities"] == [
        "manifest-support",
        "outbound-proxy",
        "start-entrypoint",
    ]


async def test_programs_see_the_image_with_its_user_environment_and_directory(
    started: Container,
) -> None:
    assert await started.sh("id -u; id -g; pwd; echo $GREETING $PATH; hostname") == (
        "1000\n1000\n/home/anna\nhello /bin\ncontainer\n"
    )
    assert await started.sh("cat /etc/marker") == "this is the image\n"
    assert await started.sh("cat /etc/hosts") == (
        "127.0.0.1 localhost container\n::1 localhost container\n"
    )


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137), ("nonsense", 127)]
)
async def test_exit_codes_are_those_of_the_program(
    started: Container, script: str, code: int
) -> None:
    assert await started.run("/bin/sh", "-c", script) == code


async def test_an_entry_point_that_is_not_there_fails_with_a_word(started: Container) -> None:
    assert await started.run("/bin/none") != 0
    assert b"/bin/none" in started.stderr
    with pytest.raises(RuntimeFault, match="absolute path"):
        await started.run("sh", "-c", "true")


async def test_arguments_arrive_as_they_are(started: Container) -> None:
    script = 'for word in "$@"; do echo "[$word]"; done'

    assert await started.run("/bin/sh", "-c", script, "x", "", "a b", "--", "é\n") == 0

    assert started.stdout.decode() == "[]\n[a b]\n[--]\n[é\n]\n"


async def test_streams_are_told_apart_and_whole(started: Container) -> None:
    code = await started.run("/bin/sh", "-c", "seq 1 50000; seq 1 3 >&2")

    assert code == 0
    assert started.stdout.decode().splitlines() == [str(n) for n in range(1, 50_001)]
    assert started.stderr == b"1\n2\n3\n"


async def test_changes_stay_and_the_image_does_not_change(
    started: Container, tmp_path: Path, image: Image
) -> None:
    await started.sh("echo new > /etc/marker; echo kept > /data/file; rm /bin/seq")
    await started.runtime.stop()
    await started.resume()

    assert await started.sh("cat /etc/marker /data/file; ls /bin/seq || true") == "new\nkept\n"
    assert (await started.volume("/data") / "file").read_text() == "kept\n"
    async with container(tmp_path / "other") as other:
        await other.deploy(image)
        await other.start()
        assert await other.sh("cat /etc/marker; ls /data; ls /bin/seq") == (
            "this is the image\n/bin/seq\n"
        )


async def test_a_background_program_outlives_its_command_and_holds_nothing_up(
    started: Container,
) -> None:
    async with asyncio.timeout(10):
        assert await started.sh("while sleep 0.01; do echo beat; done & echo started") == (
            "started\n"
        )

    assert "sleep 0.01" in await started.sh("ps")


async def test_the_service_of_the_image_serves_commands_of_the_same_container(
    tmp_path: Path, image: Image
) -> None:
    async with container(tmp_path / "work") as found:
        await found.deploy(image)
        await found.start("start-entrypoint")
        hits = "wget -q -O - http://localhost:8080/cgi-bin/hits"
        is_up = "until wget -q -O /dev/null http://localhost:8080/; do sleep 0.05; done"
        await found.sh(is_up)

        assert [await found.sh(hits) for _ in range(3)] == ["1\n", "2\n", "3\n"]

        await found.runtime.stop()
        await found.resume()
        await found.sh(is_up)
        assert await found.sh(f"{hits}; wc -l < /data/starts") == "4\n2\n"


async def test_start_entrypoint_without_one_is_refused(tmp_path: Path) -> None:
    plain = write_image(tmp_path, Entrypoint=None)
    async with container(tmp_path / "work") as found:
        await found.deploy(plain)
        with pytest.raises(RuntimeFault, match="exit code 1"):
            await found.start("start-entrypoint")
        assert b"no entry point" in found.stderr


async def test_a_stop_lets_programs_finish_and_leaves_nothing(started: Container) -> None:
    script = "trap 'echo ended > /data/end; exit 0' TERM; touch /data/on; while :; do sleep 1; done"
    running = asyncio.create_task(started.run("/bin/sh", "-c", script))
    volume = await started.volume("/data")
    async with asyncio.timeout(10):
        while not (volume / "on").exists():  # noqa: ASYNC110 - a file appears, nobody tells
            await asyncio.sleep(0.01)

    await started.runtime.stop()

    assert await outcome(running) in (0, "Stopped")
    assert (volume / "end").read_text() == "ended\n"
    assert [p for p in psutil.Process().children(recursive=True) if p.name() != "python"] == []


async def outcome(running: "asyncio.Task[int]") -> int | str:
    try:
        return await running
    except Stopped:
        return "Stopped"


async def test_volumes_that_the_deploy_asks_for(tmp_path: Path, image: Image) -> None:
    wishes = {"/ram": VolumeWish(VolumeKind.RAM, 1 << 20), "/mine": VolumeWish(VolumeKind.HOST)}
    async with container(tmp_path / "work") as found:
        await found.deploy(image, volumes=wishes, hostname="box-1")
        await found.start()

        assert await found.sh("hostname; echo x > /mine/x; echo y > /ram/y; cat /ram/y") == (
            "box-1\ny\n"
        )
        assert await found.sh("cat /ram/y") == "y\n"
        full = "dd if=/dev/zero of=/ram/big bs=1M count=4"
        assert await found.run("/bin/sh", "-c", full) == 1
        assert b"No space left" in found.stderr
        assert (await found.volume("/mine") / "x").read_text() == "x\n"
        assert {volume.path for volume in await found.runtime.volumes()} == {"/data", "/mine"}


async def test_an_image_with_devices_and_owners_is_unpacked_without_them(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_tree(tree)
    (tree / "etc" / "owned").write_text("x")
    (tree / "etc" / "hidden").write_text("secret of the image\n")
    (tree / "etc" / "hidden").chmod(0)
    (tree / "bin" / "busybox").chmod(0o4755)
    definitions = tmp_path / "devices"
    definitions.write_text("/disk b 660 0 0 8 0\n/etc/owned m 644 1234 1234\n")
    path = pack_image(tree, tmp_path / "odd.gvmi").path
    repack(tree, path, definitions)
    async with container(tmp_path / "work") as found:
        await found.deploy(Image(path))
        await found.start()

        assert await found.sh("ls /disk 2>/dev/null; ls -l /etc/owned | tr -s ' '; id -u") != ""
        assert "disk" not in found.stdout.decode()
        assert " anna anna " in found.stdout.decode()


def repack(tree: Path, path: Path, definitions: Path) -> None:
    """Make the image again, with devices and owners of all kinds."""
    import subprocess

    from shem.devnet.image import CONFIG
    from shem.exeunit.runtimes.container.image import append_config

    path.unlink()
    command = ["mksquashfs", str(tree), str(path), "-noappend", "-quiet", "-no-progress"]
    subprocess.run([*command, "-pf", str(definitions)], check=True, stdout=subprocess.DEVNULL)
    append_config(path, CONFIG)


@pytest.mark.parametrize("damage", ["superblock", "middle", "short"])
async def test_damaged_images_are_refused(tmp_path: Path, image: Image, damage: str) -> None:
    data = bytearray(image.path.read_bytes())
    match damage:
        case "superblock":
            data[4:96] = b"\xff" * 92
        case "middle":
            data[len(data) // 3 : 2 * len(data) // 3] = b"\0" * (
                2 * len(data) // 3 - len(data) // 3
            )
        case "short":
            data = data[:96] + data[-2_000:]
    path = tmp_path / "damaged.gvmi"
    path.write_bytes(data)
    async with container(tmp_path / "work") as found:
        with pytest.raises(RuntimeFault, match="deploy exited with code 1"):
            await found.deploy(Image(path))
    left = sorted(entry.name for entry in os.scandir(tmp_path) if "damaged" in entry.name)
    assert left == ["damaged.gvmi", "damaged.gvmi.lock"]


async def test_an_image_larger_than_the_storage_is_refused_before_it_is_unpacked(
    tmp_path: Path,
) -> None:
    tree = tmp_path / "tree"
    write_tree(tree)
    with (tree / "bomb").open("wb") as bomb:
        bomb.truncate(200 << 20)
    bomb_image = pack_image(tree, tmp_path / "bomb.gvmi")
    assert bomb_image.path.stat().st_size < 20 << 20
    async with container(tmp_path / "work", Limits(storage_size=100 << 20)) as found:
        with pytest.raises(RuntimeFault, match="deploy exited with code 1"):
            await found.deploy(bomb_image)
        assert b"more than" in found.stderr


async def test_where_layers_cannot_be_mounted_the_image_is_copied(
    tmp_path: Path, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy that an older kernel needs is made beforehand: a container with one uses it."""
    async with container(tmp_path / "work") as found:
        await found.deploy(image)
        root = json.loads((tmp_path / "work" / "container.json").read_text())["root"]
        calls: list[str] = []

        def mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
            del source, target, flags, options
            calls.append(kind)
            if kind == "overlay":
                raise OSError(22, "Invalid argument")

        monkeypatch.setattr(namespaces, "_mount", mount)
        monkeypatch.chdir(tmp_path)
        assert namespaces._mount_root(tmp_path / "work", Path(root)) == "root"
        assert "overlay" in calls

        await found.start()

        assert await found.sh("echo new > /etc/marker; cat /etc/marker") == "new\n"
        assert (tmp_path / "work" / "root" / "etc" / "marker").read_text() == "new\n"
        assert (Path(root) / "etc" / "marker").read_text() == "this is the image\n"
