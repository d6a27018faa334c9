"""Who this node is: keys and signatures, keystores, identities, application keys.

Reading order: `keys` (keys, node ids, signatures; pure), `proof` (who solved a challenge),
`keystore` (a key as a file), `records` and `rows`, `service` (the identities, and whom a program
acts for), `app_keys`, `yagna_datadir` (identities taken over from a yagna).
Tables: `identity`, `app_key`. Protocol: docs/protocol/gsb-identity.md §3.
"""
