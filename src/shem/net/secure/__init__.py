"""Encryption between shem nodes, end to end (docs/protocol/encryption.md).

`noise` the handshake, `proof` who signed it, `packets` the bytes, `channel` the data packets,
`window` against replays, `handshake` the three put together. `layer` when to use what, with
`greetings` (handshakes under way), `links` (open channels), `waiting` (what is held meanwhile),
`guard` (control packets inside), `trust` (the policy), `pins` and `pin_store` (who is never
believed in the clear again).
"""
