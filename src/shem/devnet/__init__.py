"""A whole network on this machine, for the demo and the tests: real processes, real packets.

Reading order: `compose` (starts and stops the network), `daemons` (its long-running programs),
`processes` (one child; what a killed child left behind), `payload` (the program that is rented for)
and `package` (serves it), `program` (the requestor's program, a process of its own that uses
nothing but `import shem`) with `counter` (its service) and `served` (how to ask that), `running`
(the program as a process), `story`, `machine_story` and `network_story` (run the GAP-17 scenarios
and measure), `promises` (what was promised and seen), `demo` and `command` (the command line),
`telling` (the terminal).

Programs live on loopback or, with `places`, on hosts: `internet` (carries packets between them) on
`namespace` (network namespaces) and `packets`; `door` leads in. `image` is a container's image.
"""
