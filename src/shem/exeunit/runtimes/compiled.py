"""Compiled WebAssembly modules, kept beside the images: a program is compiled once on a machine.

All ExeUnits that run it map the same file, so they share its memory as well. The name of a file is
the hash of the program and the hash of what is in it: machine code is run only if it is whole, and
the engine itself refuses what another version, or other settings, have made. The directory is the
agent's own; whoever can write there could replace the agent's programs just as well.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
import wasmtime

from shem.kernel.world import Rng

SUFFIX: Final = ".cwasm"
PARTIAL_DIRECTORY: Final = "tmp"

log = structlog.get_logger()


def load(engine: wasmtime.Engine, source: bytes, cache: Path, rng: Rng) -> wasmtime.Module:
    """Return the module of a program; WasmtimeError when it does not compile."""
    name = hashlib.sha256(source).hexdigest()
    found = _kept(engine, cache, name)
    if found is not None:
        return found
    module = wasmtime.Module(engine, source)
    try:
        _keep(cache, name, bytes(module.serialize()), rng)
    except (OSError, wasmtime.WasmtimeError) as error:  # it is run all the same
        log.warning("compiled.not_kept", module=name, reason=str(error))
    return module


def _kept(engine: wasmtime.Engine, cache: Path, name: str) -> wasmtime.Module | None:
    for path in cache.glob(f"{name}.*{SUFFIX}"):
        with suppress(OSError, wasmtime.WasmtimeError):
            if path.name == _file_name(name, path.read_bytes()):
                return wasmtime.Module.deserialize_file(engine, str(path))
        with suppress(OSError):
            path.unlink()
    return None


def _keep(cache: Path, name: str, code: bytes, rng: Rng) -> None:
    """Write a file whole or not at all; several may do so at once, and write the same."""
    partial = cache / PARTIAL_DIRECTORY / rng.token(16).hex()
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_bytes(code)
        partial.replace(cache / _file_name(name, code))
    finally:
        partial.unlink(missing_ok=True)


def _file_name(name: str, code: bytes) -> str:
    return f"{name}.{hashlib.sha256(code).hexdigest()}{SUFFIX}"
