"""Words every part shares: ids, errors, times, callers, clocks, randomness, configuration.

May be imported by all; imports nothing of ours. Reading order: `ids`, `errors`, `caller`, `times`,
`world`, `config`, `log`, `tasks`, `rates`. Seams to the machine: `datagrams`, `links`, `piped`
(child processes), `command` (how to start another part of shem). `breath` (long work in slices),
`writing` (to what may break), `failpoints` (where tests may strike), `version`.
"""
