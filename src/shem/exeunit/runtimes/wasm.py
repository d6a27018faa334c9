"""The WASI runtime, `wasmtime`: programs in a sandbox inside the ExeUnit's own process.

* deploy makes one directory per mount point and writes `deployment.json` (docs/protocol/
  activity-exeunit.md §9.5); start compiles the modules; run gives a module a thread of its own, its
  mounted directories, its arguments, and nothing else: no network, no environment, empty stdin.
* A running program is stopped through wasmtime's epochs: its deadline is one tick away and the only
  tick is the stop. One that sleeps inside the host notices when it wakes; `stop` waits
  `STOP_TIMEOUT_S` and then says that it did not end.
* Killing the process kills the program with it: nothing can go on behind the journal's back.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import wasmtime

from shem.exeunit.commands import Command, DeployOptions
from shem.exeunit.runtimes.base import Limits, RuntimeFault, Sink, Stopped, Volume
from shem.exeunit.runtimes.compiled import load
from shem.exeunit.runtimes.wasi_package import (
    Access,
    Manifest,
    MountPoint,
    read_manifest,
    read_module,
)
from shem.kernel.world import Rng

STOP_TIMEOUT_S: Final = 3.0
ERROR_TEXT_MAX: Final = 500
MEMORY_SIZE_MAX: Final = 4 << 30
TABLE_ELEMENTS_MAX: Final = 1 << 20
DEPLOYMENT_NAME: Final = "deployment.json"
START_FUNCTION: Final = "_start"


@dataclass(frozen=True, slots=True)
class _Volume:
    directory: Path
    mount: MountPoint


class WasmRuntime:
    """Runs the entry points of one deployed package."""

    def __init__(
        self, work_dir: Path, rng: Rng, limits: Limits, *, cache: Path | None = None
    ) -> None:
        self._work_dir = work_dir
        self._cache = cache
        self._rng = rng
        self._memory_size = min(limits.memory_size or MEMORY_SIZE_MAX, MEMORY_SIZE_MAX)
        config = wasmtime.Config()
        config.epoch_interruption = True
        self._engine = wasmtime.Engine(config)
        self._modules: dict[str, wasmtime.Module] = {}
        self._volumes: tuple[_Volume, ...] = ()
        self._stopping = threading.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def deploy(
        self, image: Path | None, options: DeployOptions, stdout: Sink, stderr: Sink
    ) -> None:
        del stdout, stderr
        if image is None:
            raise RuntimeFault("the Demand names no task package (image) to deploy")
        if options.volumes or options.networks:
            raise RuntimeFault("this runtime has the volumes of its package alone, and no network")
        manifest = await asyncio.to_thread(read_manifest, image)
        volumes = [
            {
                "name": f"vol-{self._rng.token(16).hex()}",
                "path": mount.path,
                "access": str(mount.access),
            }
            for mount in manifest.mount_points
        ]
        deployment: dict[str, object] = {"package": str(image), "volumes": volumes}
        await asyncio.to_thread(self._write_deployment, deployment)

    async def start(self, args: Sequence[str] | None, stdout: Sink, stderr: Sink) -> None:
        del args, stdout, stderr
        package, volumes = await asyncio.to_thread(self._read_deployment)
        manifest = await asyncio.to_thread(read_manifest, package)
        self._modules = await asyncio.to_thread(self._compile, package, manifest)
        self._volumes = volumes

    async def run(self, command: Command, stdout: Sink, stderr: Sink) -> int:
        module = self._modules.get(command.entry_point)
        if module is None:
            raise RuntimeFault(f"Entrypoint {command.entry_point} not found.")
        self._stopping.clear()
        self._idle.clear()
        try:
            return await _in_own_thread(lambda: self._execute(module, command, stdout, stderr))
        finally:
            self._idle.set()

    async def stop(self) -> None:
        self._stopping.set()
        self._engine.increment_epoch()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._idle.wait()
        except TimeoutError:
            raise RuntimeFault(f"the program did not stop within {STOP_TIMEOUT_S} s") from None

    async def volumes(self) -> tuple[Volume, ...]:
        _, volumes = await asyncio.to_thread(self._read_deployment)
        return tuple(
            Volume(volume.mount.path, volume.directory)
            for volume in volumes
            if volume.mount.access is not Access.PRIVATE
        )

    def counters(self) -> Mapping[str, float]:
        return {}

    def _write_deployment(self, deployment: dict[str, object]) -> None:
        volumes = deployment["volumes"]
        assert isinstance(volumes, list)
        for volume in volumes:
            (self._work_dir / volume["name"]).mkdir()
        partial = self._work_dir / (DEPLOYMENT_NAME + ".new")
        partial.write_text(json.dumps(deployment, indent=2))
        partial.replace(self._work_dir / DEPLOYMENT_NAME)

    def _read_deployment(self) -> tuple[Path, tuple[_Volume, ...]]:
        try:
            deployment = json.loads((self._work_dir / DEPLOYMENT_NAME).read_text())
            volumes = tuple(
                _Volume(
                    self._work_dir / volume["name"],
                    MountPoint(volume["path"], Access(volume["access"])),
                )
                for volume in deployment["volumes"]
            )
            return Path(deployment["package"]), volumes
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RuntimeFault(f"the deployment cannot be read: {error!r}") from error

    def _compile(self, package: Path, manifest: Manifest) -> dict[str, wasmtime.Module]:
        modules: dict[str, wasmtime.Module] = {}
        for wasm_path in set(manifest.entry_points.values()):
            try:
                modules[wasm_path] = self._module(read_module(package, wasm_path))
            except wasmtime.WasmtimeError as error:
                raise RuntimeFault(f"{wasm_path} does not compile: {error}") from error
        return {entry: modules[wasm_path] for entry, wasm_path in manifest.entry_points.items()}

    def _module(self, source: bytes) -> wasmtime.Module:
        if self._cache is None:
            return wasmtime.Module(self._engine, source)
        return load(self._engine, source, self._cache, self._rng)

    def _execute(
        self, module: wasmtime.Module, command: Command, stdout: Sink, stderr: Sink
    ) -> int:
        """Run a module; on its own thread, so it may block."""
        store = wasmtime.Store(self._engine)
        store.set_limits(
            memory_size=self._memory_size, table_elements=TABLE_ELEMENTS_MAX, instances=1
        )
        store.set_epoch_deadline(1)
        if self._stopping.is_set():
            raise Stopped("the command was stopped before it began")
        try:
            store.set_wasi(self._wasi(command, stdout, stderr))
            linker = wasmtime.Linker(self._engine)
            linker.define_wasi()
            exports = linker.instantiate(store, module).exports(store)
            start = exports.get(START_FUNCTION)
            if not isinstance(start, wasmtime.Func):
                raise RuntimeFault(f"the module has no function {START_FUNCTION}")
            start(store)
        except wasmtime.ExitTrap as end:
            return int(end.code)
        except wasmtime.Trap as trap:
            if trap.trap_code is wasmtime.TrapCode.INTERRUPT:
                raise Stopped("the command was stopped") from trap
            raise RuntimeFault(f"Runtime error: {_cause(trap)}") from trap
        except wasmtime.WasmtimeError as error:
            raise RuntimeFault(f"Runtime error: {_cause(error)}") from error
        finally:
            store.close()
        return 0

    def _wasi(self, command: Command, stdout: Sink, stderr: Sink) -> wasmtime.WasiConfig:
        wasi = wasmtime.WasiConfig()
        wasi.argv = [command.entry_point, *command.args]
        wasi.stdout_custom = stdout
        wasi.stderr_custom = stderr
        for volume in self._volumes:
            writable = volume.mount.access is not Access.READ
            wasi.preopen_dir(str(volume.directory), volume.mount.path, writable)
        return wasi


async def _in_own_thread(work: Callable[[], int]) -> int:
    """Run `work` on a daemon thread, which a process that has to end does not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()

    def settle(code: int | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            assert code is not None
            future.set_result(code)

    def body() -> None:
        try:
            code = work()
        except BaseException as error:
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, code, None)

    threading.Thread(target=body, name="wasm", daemon=True).start()
    return await future


def _cause(error: Exception) -> str:
    """Shorten a wasmtime error to what a requestor can use: its cause, without the backtrace."""
    _, _, cause = str(error).rpartition("Caused by:")
    return "; ".join(line.strip() for line in cause.splitlines() if line.strip())[:ERROR_TEXT_MAX]


def check_runtime() -> None:
    """Run a program of one instruction; RuntimeFault when this machine cannot."""
    try:
        engine = wasmtime.Engine()
        module = wasmtime.Module(engine, '(module (func (export "one") (result i32) i32.const 1))')
        store = wasmtime.Store(engine)
        one = wasmtime.Instance(store, module, []).exports(store)["one"]
        assert isinstance(one, wasmtime.Func)
        if one(store) != 1:
            raise RuntimeFault("the WebAssembly engine computes wrongly")
    except wasmtime.WasmtimeError as error:
        raise RuntimeFault(f"the WebAssembly engine does not work: {error}") from error
