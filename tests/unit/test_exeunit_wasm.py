"""The WASI runtime, with the real program."""

import asyncio
import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import wasmtime

from shem.devnet import payload
from shem.exeunit.commands import Command, DeployOptions, Kind
from shem.exeunit.runtimes.base import Limits, RuntimeFault, Stopped
from shem.exeunit.runtimes.wasm import WasmRuntime
from shem.kernel.world import SeededRng

SCENE = "centre -0.743643887037151 0.131825904205330\nwidth 3 0.00001\nsize 80 60\niterations 300\n"
ENDLESS = "centre 0 0\nwidth 0.1 0.1\nsize 4000 4000\niterations 10000000\n"


def nowhere(_: bytes) -> None:
    """Take output that nobody wants."""


def run_command(*args: str, entry_point: str = "mandel") -> Command:
    return Command(Kind.RUN, entry_point, args)


class Program:
    """A started deployment, and what its last run printed."""

    def __init__(self, work_dir: Path, limits: Limits) -> None:
        self.runtime = WasmRuntime(work_dir, SeededRng(1), limits)
        self.stdout = bytearray()
        self.stderr = bytearray()

    async def run(self, *args: str, entry_point: str = "mandel") -> int:
        self.stdout.clear()
        self.stderr.clear()
        command = run_command(*args, entry_point=entry_point)
        return await self.runtime.run(command, self.stdout.extend, self.stderr.extend)


async def started(tmp_path: Path, package: Path | None = None, *, mem: int = 64 << 20) -> Program:
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    program = Program(work_dir, Limits(memory_size=mem))
    await program.runtime.deploy(
        package or payload.write_package(tmp_path).path, DeployOptions(), nowhere, nowhere
    )
    await program.runtime.start((), nowhere, nowhere)
    return program


def wat_package(tmp_path: Path, wat: str) -> Path:
    path = tmp_path / "wat.zip"
    with zipfile.ZipFile(path, "w") as archive:
        manifest = {"id": "t", "name": "t", "entry-points": [{"id": "t", "wasm-path": "t.wasm"}]}
        archive.writestr("manifest.json", json.dumps(manifest))
        archive.writestr("t.wasm", bytes(wasmtime.wat2wasm(wat)))
    return path


async def test_renders_the_well_known_picture(tmp_path: Path) -> None:
    program = await started(tmp_path)

    assert await program.run("render", "78", "24") == 0

    lines = bytes(program.stdout).decode().splitlines()
    assert [len(line) for line in lines] == [78] * 24
    assert lines == lines[::-1]
    assert lines[11].count("@") > 30


async def test_zoom_writes_the_frame_and_prints_its_true_checksum(tmp_path: Path) -> None:
    program = await started(tmp_path)
    assert await program.run("scene", SCENE) == 0

    assert await program.run("zoom", "2", "3", "tag") == 0

    told = re.search(rb"crc32 ([0-9a-f]{8})  (/work/\S+)", program.stdout)
    assert told is not None
    [volume] = (tmp_path / "work").glob("vol-*")
    image = (volume / Path(told[2].decode()).relative_to("/work")).read_bytes()
    assert image.startswith(b"P5\n80 60\n255\n")
    assert int(told[1], 16) == zlib.crc32(image)
    assert await program.run("ledger") == 0
    assert program.stdout == b"begin frame 2 of 3 tag\nend frame 2 of 3 tag\n"


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("bogus",),
        ("zoom", "4", "3"),
        ("zoom", "x", "3"),
        ("scene", "no sense"),
        ("render", "0"),
    ],
)
async def test_misuse_is_an_exit_code_and_a_word_on_stderr(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    program = await started(tmp_path)

    assert await program.run(*args) == 2

    assert program.stderr.startswith(b"mandel: ")
    assert not program.stdout


async def test_the_loop_goes_on_while_a_program_runs_and_a_stop_ends_it(tmp_path: Path) -> None:
    program = await started(tmp_path)
    await program.run("scene", ENDLESS)

    async with asyncio.TaskGroup() as group:
        running = group.create_task(_outcome(program.run("zoom", "1", "1")))
        [volume] = (tmp_path / "work").glob("vol-*")
        await until((volume / "ledger.txt").exists)
        await program.runtime.stop()

    assert isinstance(running.result(), Stopped)
    assert await program.run("ledger") == 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a file appears, nobody tells
            await asyncio.sleep(0.01)


async def _outcome(run: object) -> BaseException | None:
    try:
        await run  # type: ignore[misc]
    except RuntimeFault as fault:
        return fault
    return None


async def test_a_new_runtime_takes_the_deployment_up_again(tmp_path: Path) -> None:
    program = await started(tmp_path)
    await program.run("note", "before")

    later = Program(tmp_path / "work", Limits())
    await later.runtime.start((), nowhere, nowhere)

    assert await later.run("ledger") == 0
    assert later.stdout == b"before\n"


async def test_unknown_entry_point(tmp_path: Path) -> None:
    program = await started(tmp_path)

    with pytest.raises(RuntimeFault, match="Entrypoint other not found"):
        await program.run(entry_point="other")


async def test_memory_is_limited(tmp_path: Path) -> None:
    program = await started(tmp_path, mem=2 << 20)
    await program.run("scene", "size 4000 4000\niterations 1\n")

    assert await program.run("zoom", "1", "1") == 1

    assert b"no memory" in program.stderr


async def test_a_program_sees_no_files_but_its_mount_points(tmp_path: Path) -> None:
    wat = (
        '(module (import "wasi_snapshot_preview1" "fd_prestat_get"'
        " (func $get (param i32 i32) (result i32)))"
        ' (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
        ' (memory (export "memory") 1)'
        ' (func (export "_start") (call $exit (call $get (i32.const 3) (i32.const 0)))))'
    )
    program = await started(tmp_path, wat_package(tmp_path, wat))

    bad_descriptor = 8
    assert await program.run(entry_point="t") == bad_descriptor


@pytest.mark.parametrize(
    ("wat", "message"),
    [
        ('(module (func (export "_start") unreachable))', "Runtime error: .*unreachable"),
        ('(module (func $f (export "_start") (call $f)))', "Runtime error: .*stack"),
        ("(module)", "no function _start"),
        ('(module (import "env" "x" (func)) (func (export "_start")))', "Runtime error: .*env"),
    ],
)
async def test_programs_that_trap_or_do_not_fit_are_faults(
    tmp_path: Path, wat: str, message: str
) -> None:
    program = await started(tmp_path, wat_package(tmp_path, wat))

    with pytest.raises(RuntimeFault, match=message):
        await program.run(entry_point="t")


async def test_deploy_needs_an_image(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFault, match="no task package"):
        await WasmRuntime(tmp_path, SeededRng(1), Limits()).deploy(
            None, DeployOptions(), nowhere, nowhere
        )


async def test_start_needs_a_deployment(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFault, match="deployment"):
        await WasmRuntime(tmp_path, SeededRng(1), Limits()).start((), nowhere, nowhere)


def bad_packages() -> dict[str, dict[str, bytes]]:
    good = {"id": "x", "wasm-path": "x.wasm"}

    def manifest(**fields: object) -> bytes:
        return json.dumps({"id": "t", "name": "t", "entry-points": [good], **fields}).encode()

    return {
        "no manifest.json": {},
        "is not JSON": {"manifest.json": b"{"},
        "malformed": {"manifest.json": b"[]"},
        "entry-points is not a list": {"manifest.json": manifest(**{"entry-points": {}})},
        "not a kind of mount point": {"manifest.json": manifest(**{"mount-points": [{"x": "a"}]})},
        "leaves the program's root": {
            "manifest.json": manifest(**{"mount-points": [{"rw": "../../etc"}]})
        },
        "not supported yet": {"manifest.json": manifest(runtime="aswasm")},
        "at most 64": {"manifest.json": manifest(**{"mount-points": [{"rw": "a"}] * 65})},
    }


@pytest.mark.parametrize("message", list(bad_packages()))
async def test_malformed_packages_are_refused(tmp_path: Path, message: str) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in bad_packages()[message].items():
            archive.writestr(name, data)

    with pytest.raises(RuntimeFault, match=message):
        await WasmRuntime(tmp_path, SeededRng(1), Limits()).deploy(
            path, DeployOptions(), nowhere, nowhere
        )


async def test_what_is_no_zip_or_no_module_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.zip"
    text.write_bytes(hashlib.sha256(b"").digest() * 100)
    with pytest.raises(RuntimeFault, match="cannot be read"):
        await WasmRuntime(tmp_path, SeededRng(1), Limits()).deploy(
            text, DeployOptions(), nowhere, nowhere
        )

    path = tmp_path / "module.zip"
    with zipfile.ZipFile(path, "w") as archive:
        entries = {"entry-points": [{"id": "t", "wasm-path": "t.wasm"}]}
        archive.writestr("manifest.json", json.dumps(entries))
        archive.writestr("t.wasm", b"\0asm but not")
    runtime = WasmRuntime(tmp_path, SeededRng(1), Limits())
    await runtime.deploy(path, DeployOptions(), nowhere, nowhere)
    with pytest.raises(RuntimeFault, match="does not compile"):
        await runtime.start((), nowhere, nowhere)
