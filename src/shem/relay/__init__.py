"""The relay server: registers nodes, finds them for others, forwards between them.

`core` the protocol (sans IO) with `outputs` and `questions`; `directory` who is there, `slots` by
which number, `tickets` stateless session ids, `visibility` who is public, `limits` against floods;
`snapshot` what a restart keeps. `registry` and `mesh` are the seams for several relays of one
network. `service` sockets and files, `metrics` for operators. Owns no tables.
Protocol: docs/protocol/net.md §5.
"""
