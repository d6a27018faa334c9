"""The `shem` command. Each sub-command's module is imported only when it is used.

Reading order: `main` (the table of commands), `node`, `relay`, `identity`, `net`, and `ask` (how a
command talks to the running node). Exit codes: docs/exit-codes.md.
"""
