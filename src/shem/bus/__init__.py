"""The service bus: addresses, calls, streams, topics; in the process, over sockets and the net.

Reading order: `types` (calls, handlers, failures), `typed` (documents in payloads), `outcome` (what
callers make of replies), `answering` (what handlers' outcomes become), `router` (who answers which
address, in this process) with `pending`.

Over a socket: `link` (one connection, either end), `socket_server` (the node's), `client` (an
ExeUnit's, the agent's, a command's). Over the net: `remote` (calls of ours to other nodes),
`inbound` (theirs to us), `features` (what another node understands), `broadcast` (topics).
Owns no tables. Protocol: docs/protocol/gsb-identity.md.
"""
