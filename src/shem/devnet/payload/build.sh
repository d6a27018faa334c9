#!/bin/sh
# Build mandel.wasm from mandel.c, byte for byte the same wherever the same compiler runs.
#
# Needs Debian's clang, lld, wasi-libc and libclang-rt-dev-wasm32 (bookworm: clang 14.0.6).
# The committed binary was built by this script; tests/unit/test_exeunit_payload.py compares.
# Use: build.sh [OUTPUT]     then `python -m shem.devnet.payload DIRECTORY` to pack mandel.zip.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
output=${1:-$here/mandel.wasm}
cd "$here"
exec clang --target=wasm32-wasi -std=c11 -O2 -Wall -Wextra -Werror -fno-ident -g0 \
    -Wl,--strip-all -Wl,-z,stack-size=131072 -o "$output" mandel.c -lm
