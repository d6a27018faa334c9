"""The rented program: its binary is what its source says, its package is always the same."""

import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from shem.devnet import payload

COMPILER = "Debian clang version 14.0.6"


def compiler_version() -> str:
    if shutil.which("clang") is None or shutil.which("wasm-ld") is None:
        return ""
    told = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True)
    return told.stdout.splitlines()[0]


@pytest.mark.skipif(compiler_version() != COMPILER, reason=f"needs {COMPILER} and lld")
def test_build_script_reproduces_the_committed_binary(tmp_path: Path) -> None:
    built = tmp_path / "mandel.wasm"

    subprocess.run([payload.HERE / "build.sh", built], check=True)

    assert built.read_bytes() == (payload.HERE / "mandel.wasm").read_bytes()


def test_packing_twice_gives_the_same_hash(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    first, second = (payload.write_package(tmp_path / name) for name in "ab")

    assert first.sha3_224 == second.sha3_224
    assert hashlib.sha3_224(first.path.read_bytes()).hexdigest() == first.sha3_224


def test_package_holds_what_its_manifest_names(tmp_path: Path) -> None:
    package = payload.write_package(tmp_path)

    with zipfile.ZipFile(package.path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        paths = [entry["wasm-path"] for entry in manifest["entry-points"]]
        assert all(archive.read(path).startswith(b"\0asm") for path in paths)


def test_task_package_names_hash_and_place(tmp_path: Path) -> None:
    package = payload.write_package(tmp_path)

    assert package.task_package == f"hash:sha3:{package.sha3_224}:{package.path.as_uri()}"
