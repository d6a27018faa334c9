"""What a hostile program tries from inside a container: contained, reported, the provider alive."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from shem.bus.types import NoSuchEndpoint
from tests.busybox_image import requires_container
from tests.crash.exeunit_site import Daemon, until
from tests.e2e.container_site import ContainerSite, sh

pytestmark = requires_container()
MIB = 1 / 1024
RSS_GROWTH_MAX = 120 << 20


class Cell:
    """A container, the ExeUnit around it, and the node beside it."""

    def __init__(self, site: ContainerSite, daemon: Daemon, unit: psutil.Process) -> None:
        self.site = site
        self.daemon = daemon
        self.unit = unit
        self._count = 0

    async def run(self, script: str, **options: Any) -> dict[str, Any]:
        self._count += 1
        [result] = await self.daemon.run(f"b{self._count}", sh(script, **options))
        return result

    async def is_well(self) -> bool:
        result = await self.run("echo well")
        return bool(result["stdout"] == "well\n" and self.unit.is_running())


@asynccontextmanager
async def cell(directory: Path, **offer: float) -> AsyncIterator[Cell]:
    site = ContainerSite(directory, **offer)
    try:
        async with site.daemon() as daemon:
            yield Cell(site, daemon, await site.set_up(daemon))
    finally:
        await site.kill_all()


async def test_files_of_the_host_cannot_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host secret")
    async with cell(tmp_path) as found:
        ways = [
            f"cat {secret}",
            f"cat /proc/1/root{secret}",
            "cat /proc/1/environ",
            "ls /proc/1/cwd/",
            "cat /proc/1/fd/0",
            "cat /proc/1/maps",
            f"for p in /proc/[0-9]*; do cat $p/root{secret}; cat $p/cwd/../secret; done",
            f"ln -s {secret} /data/way; cat /data/way",
            f"cat /data/../../..{secret}",
            "cat /etc/shadow",
            "ls /sys /dev/sda /dev/vda /dev/mem /dev/kmsg",
        ]

        for way in ways:
            result = await found.run(way)
            assert result["result"] == "Error", (way, result)
            assert "secret" not in (result["stdout"] or "")
        assert str(tmp_path) not in (await found.run("ps"))["stdout"]
        assert await found.is_well()


async def test_processes_of_the_host_get_no_signal(tmp_path: Path) -> None:
    victim = await asyncio.create_subprocess_exec("sleep", "1000")
    try:
        async with cell(tmp_path) as found:
            pids = [victim.pid, os.getpid(), found.unit.pid, found.unit.ppid()]
            for pid in pids:
                result = await found.run(f"kill -9 {pid}")
                assert "No such process" in result["stderr"]
            result = await found.run("kill -9 1; kill -15 1; kill -19 1; kill -9 -1; echo unharmed")
            assert result["message"] in (None, "ExeScript command exited with code 137")
            result = await found.run("for n in $(seq 2 64); do kill -9 -$n $n; done 2>/dev/null")
            assert result["message"] in (None, "ExeScript command exited with code 137")

            assert await found.is_well()
        assert victim.returncode is None
    finally:
        victim.kill()
        await victim.wait()


async def test_settings_of_the_kernel_cannot_be_changed(tmp_path: Path) -> None:
    async with cell(tmp_path) as found:
        ways = [  # harmless ones, should they succeed
            "word=$(cat /proc/sys/kernel/core_pattern); echo $word > /proc/sys/kernel/core_pattern",
            "echo x > /proc/sys/kernel/hostname",
            "echo 1 > /proc/sys/vm/drop_caches",
            "echo h > /proc/sysrq-trigger",
            "mount -o remount,rw /proc/sys",
            "umount /proc/sys",
            "mount -t proc proc /tmp",
            "mount -t tmpfs tmpfs /tmp",
            "mount -o bind / /tmp",
            "unshare -r true",
            "unshare -m true",
            "unshare -n true",
            "chroot /tmp /bin/true",
            "mknod /tmp/disk b 8 0",
            "chown 0:0 /bin/busybox",
            "hostname other",
        ]

        for way in ways:
            result = await found.run(way)
            assert result["result"] == "Error", (way, result)
        status = (await found.run("grep -E 'CapEff|CapPrm|NoNewPrivs' /proc/self/status"))["stdout"]
        assert status.split() == ["CapPrm:", "0" * 16, "CapEff:", "0" * 16, "NoNewPrivs:", "1"]
        assert await found.is_well()


async def test_there_is_no_network_but_loopback(tmp_path: Path) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    reached = asyncio.Event()
    server = await asyncio.start_server(serve, "0.0.0.0", 0)
    port = server.sockets[0].getsockname()[1]
    addresses = ["127.0.0.1", "10.0.0.1", "8.8.8.8", *_own_addresses()]
    async with server, cell(tmp_path) as found:
        interfaces = (await found.run("ip -o link"))["stdout"].splitlines()
        assert [line.split(": ")[1] for line in interfaces] == ["lo"]
        for address in addresses:
            result = await found.run(f"wget -T 2 -q -O - http://{address}:{port}/")
            assert result["result"] == "Error", address
        assert (await found.run("ip link add x type dummy"))["result"] == "Error"
        assert (await found.run("ip addr add 10.9.9.9/8 dev lo"))["result"] == "Error"
        assert await found.is_well()
    assert not reached.is_set()


def _own_addresses() -> list[str]:
    found = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    return [a.address for a in found if a.family.name == "AF_INET" and a.address != "127.0.0.1"]


async def test_a_fork_bomb_is_bounded_and_ends_with_terminate(tmp_path: Path) -> None:
    async with cell(tmp_path, cpu_threads=1) as found:
        await found.daemon.exec("bomb", sh("while :; do (while :; do sleep 1000 & done); done"))
        await until(lambda: len(found.unit.children(recursive=True)) > 200)

        state = await found.daemon.request("GetActivityState", timeout=5.0)
        assert state == {"state": ["Ready", "Ready"]}
        assert len(found.unit.children(recursive=True)) < 1_200
        [ended] = await found.daemon.run("stop", {"terminate": {}})

        assert ended["result"] == "Ok"
        await until(lambda: found.unit.children(recursive=True) == [])
        await found.daemon.run("again", {"deploy": {}}, {"start": {"args": []}})
        assert await found.is_well()


async def test_a_program_that_wants_too_much_memory_is_killed_alone(tmp_path: Path) -> None:
    async with cell(tmp_path, mem_gib=64 * MIB) as found:
        ways = [
            "dd if=/dev/zero of=/dev/null bs=200M count=1",
            "dd if=/dev/zero of=/dev/shm/x bs=1M count=200",
            "dd if=/dev/zero of=/dev/x bs=1M count=200",
        ]
        for way in ways:
            assert (await found.run(way))["result"] == "Error", way

        assert await found.is_well()


async def test_programs_go_before_their_keeper_when_memory_is_short(tmp_path: Path) -> None:
    async with cell(tmp_path) as found:
        for _ in range(5):
            result = await found.run("cat /proc/self/oom_score_adj /proc/1/oom_score_adj")
            assert result["stdout"] == "1000\n0\n"


async def test_many_programs_together_get_no_more_memory_than_one(tmp_path: Path) -> None:
    """By control groups, and by the keeper where there are none."""
    async with cell(tmp_path, mem_gib=100 * MIB) as found:
        eaters = "dd if=/dev/zero of=/dev/null bs=40M count=1000000 & " * 6

        result = await found.run(f"{eaters} sleep 2; cat /proc/*/comm | grep -c '^dd$'")

        assert result["result"] == "Ok", result
        assert 1 <= int(result["stdout"]) <= 2
        assert await found.is_well()


@pytest.mark.parametrize("mode", [{"atEnd": {}}, {"atEnd": {"tail": 100}}, {"stream": {}}])
async def test_a_flood_of_output_is_cut_and_costs_no_memory(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    async with cell(tmp_path) as found:
        await found.is_well()
        before = found.unit.memory_info().rss

        result = await found.run("yes 0123456789abcde | head -c 100000000", stdout=mode)

        kept = len(result["stdout"])
        assert kept == 100 if "tail" in str(mode) else kept == 4 << 20
        assert "tail" in str(mode) or "stdout was cut" in result["message"]
        assert found.unit.memory_info().rss - before < RSS_GROWTH_MAX
        assert await found.is_well()


async def test_files_beyond_the_storage_end_the_activity_with_a_reason(tmp_path: Path) -> None:
    async with cell(tmp_path, storage_gib=64 * MIB) as found:
        result = await found.run("dd if=/dev/zero of=/data/one bs=1M count=100")
        assert result["message"] == "ExeScript command exited with code 153"  # SIGXFSZ
        assert (found.site.work_dir / "journal").exists()

        script = "n=0; while :; do n=$((n+1)); dd if=/dev/zero of=/data/$n bs=1M count=10; done"
        await found.daemon.exec("flood", sh(script))

        await until(lambda: (found.daemon.reasons[-1] or "").startswith("Usage limit exceeded"))
        assert '"golem.usage.storage_gib"' in (found.daemon.reasons[-1] or "")
        with pytest.raises(NoSuchEndpoint):
            await until(lambda: not found.unit.is_running())
            await found.daemon.request("GetActivityState", timeout=1.0)


async def test_sparse_and_deep_and_many_files_do_not_stop_the_reports(tmp_path: Path) -> None:
    async with cell(tmp_path, storage_gib=1.0) as found:
        script = "dd if=/dev/zero of=/data/sparse bs=1 count=1 seek=900M; "
        script += "cd /data; for n in $(seq 300); do mkdir d; cd d; done; "
        script += "for n in $(seq 2000); do : > /data/f$n; done; chmod 0 /data/d; echo done"

        result = await found.run(script)

        assert result["stdout"].endswith("done\n")
        seen = len(found.daemon.usages)
        await until(lambda: len(found.daemon.usages) > seen + 3)
        assert await found.is_well()
