"""A way out for programs: a proxy that leads to what the manifest names, and nowhere else.

Reading order: `grants` (which places), `heads` (what a program asks a proxy), `proxy` (what becomes
of a connection), `gateway` (how the proxy comes to listen inside a container that has no network:
docs/protocol/extensions.md, "A way out").
"""
