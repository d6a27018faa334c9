"""Compiled modules: kept once, used only when they are whole and of this engine."""

import hashlib
from pathlib import Path

import pytest
import wasmtime

from shem.exeunit.runtimes.compiled import SUFFIX, load
from shem.kernel.world import SeededRng

RNG = SeededRng(1)


def program(number: int) -> bytes:
    wat = f'(module (func (export "f") (result i32) i32.const {number}))'
    return bytes(wasmtime.wat2wasm(wat))


def engine(*, fuel: bool = False) -> wasmtime.Engine:
    config = wasmtime.Config()
    config.consume_fuel = fuel
    return wasmtime.Engine(config)


def answer(module: wasmtime.Module, on: wasmtime.Engine) -> int:
    store = wasmtime.Store(on)
    function = wasmtime.Instance(store, module, []).exports(store)["f"]
    assert isinstance(function, wasmtime.Func)
    return int(function(store))


def kept(cache: Path, source: bytes) -> list[Path]:
    return sorted(cache.glob(f"{hashlib.sha256(source).hexdigest()}.*{SUFFIX}"))


def test_a_program_is_compiled_once_for_all_processes(tmp_path: Path) -> None:
    here, there = engine(), engine()
    assert answer(load(here, program(4), tmp_path, RNG), here) == 4
    [path] = kept(tmp_path, program(4))
    written = path.stat()

    assert answer(load(there, program(4), tmp_path, RNG), there) == 4

    assert kept(tmp_path, program(4)) == [path]
    assert path.stat().st_ino == written.st_ino
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_is_kept_is_what_runs(tmp_path: Path) -> None:
    here = engine()
    code = bytes(wasmtime.Module(here, program(7)).serialize())
    name = hashlib.sha256(program(4)).hexdigest()
    (tmp_path / f"{name}.{hashlib.sha256(code).hexdigest()}{SUFFIX}").write_bytes(code)

    assert answer(load(here, program(4), tmp_path, RNG), here) == 7


@pytest.mark.parametrize("size", [0, 1, 1_000, -1])
def test_what_is_damaged_is_compiled_anew(tmp_path: Path, size: int) -> None:
    here = engine()
    load(here, program(4), tmp_path, RNG)
    [path] = kept(tmp_path, program(4))
    whole = path.read_bytes()
    path.write_bytes(whole[:size])

    assert answer(load(here, program(4), tmp_path, RNG), here) == 4

    [path] = kept(tmp_path, program(4))
    assert path.read_bytes() == whole


def test_what_an_engine_of_other_settings_made_is_compiled_anew(tmp_path: Path) -> None:
    load(engine(fuel=True), program(4), tmp_path, RNG)
    [made_by_other] = kept(tmp_path, program(4))

    here = engine()
    assert answer(load(here, program(4), tmp_path, RNG), here) == 4

    assert kept(tmp_path, program(4)) != [made_by_other]
    assert len(kept(tmp_path, program(4))) == 1


def test_without_a_place_to_keep_it_a_program_runs_all_the_same(tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_bytes(b"")

    here = engine()
    assert answer(load(here, program(4), nowhere, RNG), here) == 4


def test_what_does_not_compile_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(wasmtime.WasmtimeError):
        load(engine(), b"\0asm nonsense", tmp_path, RNG)

    assert list(tmp_path.iterdir()) == []
