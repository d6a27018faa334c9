"""The ExeUnit: one process per activity that runs its batches and never forgets one.

Reading order: `script` (what may be asked), `core` (what may happen), `journal` (what has
happened), `capture` and `results` (what came out), `runtimes` (who does it), `service` (the
process), `command` (its command line). Protocol: docs/protocol/activity-exeunit.md.
"""
