"""The relay server: registers nodes, finds them for others, forwards between them.

`directory` who is there, `tickets` stateless session ids, `visibility` who is public,
`core` the protocol (sans-IO), `service` sockets and files. Spec: docs/protocol/net.md §5.
"""
