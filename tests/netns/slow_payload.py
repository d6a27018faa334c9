"""`mandel` with a second entry point, `nap`, which waits a second: long batches that cost little.

Hosts of several tests share a small machine: a batch that computed all the time would slow down
everything that is measured.
"""

import hashlib
import json
import zipfile
from pathlib import Path

import wasmtime

import shem
from shem.devnet import payload

NAP = """
(module
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))             ;; the monotonic clock
    (i64.store (i32.const 24) (i64.const 1000000000))    ;; nanoseconds from now
    (if (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))
      (then unreachable))))
"""
SCENE = """\
centre -0.743643887037151 0.131825904205330
width 0.02 0.0125
size 60 40
iterations 200
"""


def write_slow_package(directory: Path) -> shem.WasmPackage:
    """Pack both programs into `directory`."""
    manifest = json.loads((payload.HERE / "manifest.json").read_text())
    manifest["entry-points"].append({"id": "nap", "wasm-path": "nap.wasm"})
    path = directory.absolute() / "slow.zip"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("manifest.json", json.dumps(manifest))
        package.writestr("mandel.wasm", (payload.HERE / "mandel.wasm").read_bytes())
        package.writestr("nap.wasm", bytes(wasmtime.wat2wasm(NAP)))
    digest = hashlib.sha3_224(path.read_bytes()).hexdigest()
    return shem.WasmPackage(url=path.as_uri(), hash=f"sha3:{digest}")


def slowly(tag: str, count: int) -> list[shem.Run]:
    """Return a batch of frames, each of which leaves a trace, with a second's nap after each."""
    return [
        command
        for number in range(1, count + 1)
        for command in (
            shem.Run("mandel", "zoom", str(number), str(count), tag),
            shem.Run("nap"),
        )
    ]
