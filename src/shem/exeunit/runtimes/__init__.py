"""Who does the work: the runtimes of an ExeUnit behind one interface.

`base` (the interface), `wasm` (WASI, in this process), `plugin` (any runtime binary, by command
line and the ya-runtime-api), `container` (our own such binary: bubblewrap over a squashfs image).
"""
