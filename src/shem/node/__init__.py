"""The daemon: all services put together in one process.

Reading order: `app` (what is started in which order, and stopped in reverse), `http` (the REST
server), `local` (what the node serves on its own bus for command lines) with `bodies`,
`local_identity`, `local_app_keys`, `local_events` and `local_net`; `unlocking` and `presence`
(which identities act), `ready` (a service manager is told). Owns no tables.
"""
