"""Virtual TCP over Forward datagrams, as pure state machines: no sockets, no clock.

Reading order: `timing` (retransmission time-out, congestion window), `queues` (frames out, holes
in), `sender`, `receiver`, `connection` (one connection), `stack` (all of a node).
Spec: docs/protocol/net.md §8.
"""
