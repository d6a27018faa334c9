"""The hybrid net: a node reaches others directly, after a reverse connection, or by a relay.

One UDP socket carries it all. Sans IO, each with `now` as an argument:

Sessions: `core` (datagrams in, decisions out) with `outputs`, `post` and `requests`; `dialler` and
`acceptor` (the halves of handshakes), `handshakes` (their end), `session`, `relay_link`, `keyring`
and `introductions` (who has proven what to whom).

Routes: `router` with `registry` and `slots`; `roaming` and `whereabouts` when addresses change.

Inside them: `secure` (encryption between nodes of ours), `vtcp` (virtual TCP), `streams` and
`frames` (messages on reliable channels), `assurance` (how well their sender is proven).

`service` drives them all on a socket and a timer, `waiters` is who waits for a route or an answer,
`neighbourhood` whom broadcasts go to, `acquaintances` whom to greet after a restart; `memory` is
the same face inside one process. `types` are the words for the layers above, `trace` and
`trace_text` the view for who watches. Tables: `net_pin` (by `secure`), `net_acquaintance`.
Protocol: docs/protocol/net.md.
"""
