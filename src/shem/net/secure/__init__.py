"""Encryption between shem nodes, end to end (docs/protocol/encryption.md).

`noise` the handshake, `proof` who signed it, `packets` the bytes, `channel` the data packets,
`window` against replays, `handshake` the three put together, `layer` when to use what.
"""
