"""The keeper's half of a way out: a socket on the container's loopback, handed to the supervisor.

The supervisor listens in the work directory, which only it and we see. We connect while we still
can, make the socket in the container's network, and give it away: the keeper serves nobody itself.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LOOPBACK: Final = "127.0.0.1"
BACKLOG: Final = 64
HANDOVER_TIMEOUT_S: Final = 5.0


@contextmanager
def connected(path: str | None) -> Iterator[socket.socket | None]:
    """Connect to the supervisor; None where it offers no way out."""
    if path is None:
        yield None
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as supervisor:
        supervisor.settimeout(HANDOVER_TIMEOUT_S)
        supervisor.connect(path)
        yield supervisor


def hand_over(supervisor: socket.socket) -> int:
    """Make a socket in this network and give it away; return its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen(BACKLOG)
        socket.send_fds(supervisor, [b"l"], [listener.fileno()])
        return int(listener.getsockname()[1])


def proxy_environment(port: int) -> dict[str, str]:
    """Return what tells programs of the proxy; a host's own name leads to itself."""
    url = f"http://{LOOPBACK}:{port}"
    local = "localhost,127.0.0.1,::1"
    return {
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), url),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), local),
    }
