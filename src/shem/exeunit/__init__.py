"""The ExeUnit: one process per activity that runs its batches and never forgets one.

What may be asked: `script` with `script_fields` and `commands`, `agreement`, `compliance` (to the
manifest). What may happen: `core`. What has happened: `journal`, on disk before anyone is told.

Doing it: `engine` (batches in, results out) with `performer` (one command at a time), `feeds`,
`capture`, `events` and `results`; `runtimes` (who does it), `image`, `transfer`, `outbound` and
`addresses` (what it may reach of the internet), `usage`.

Its end: `ending` (when work is over by its terms), `ender`, `sight`, `estate` (what is left).

The process: `service` with `endpoints` (what it answers) and `reports` (what it tells), `command`
(its command line), `from_file` (one script, without a node), `nursery` (where it is forked).
Owns no tables. Protocol: docs/protocol/activity-exeunit.md.
"""
