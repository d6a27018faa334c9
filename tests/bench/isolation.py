"""Put this process where only loopback exists."""

import ctypes

from tests.interop.conftest import CLONE_NEWNET, raise_loopback


def enter_loopback_namespace() -> bool:
    """Enter a fresh network namespace; False when that is not allowed here."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        return False
    raise_loopback()
    return True
