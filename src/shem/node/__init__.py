"""The daemon: all services put together in one process.

Reading order: `app` (what is started in which order, and stopped in reverse), `http` (the REST
server), `local` (what the node serves on its own bus for command lines). Owns no tables.
"""
