"""Who does the work: the runtimes of an ExeUnit behind one interface.

`base` (the interface), `choice` (which one); `wasm` (WASI, in this process) with `wasi_package` and
`compiled`; `plugin` (any runtime binary, by command line and the ya-runtime-api) with `protocol`,
`service_link`, `children` and `deployment`; `container` (our own such binary: bubblewrap over a
squashfs image).
"""
