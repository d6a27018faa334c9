"""Tell a service manager that the node is up: `READY=1` to the socket in `NOTIFY_SOCKET`."""

import os
import socket


def tell() -> None:
    """Send the word; without a manager, do nothing."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(b"READY=1", address)
