"""Interop tests meet the real yagna, and only inside a network namespace of their own.

The binary phones home and looks for public nodes by itself; a namespace with nothing but a
loopback device keeps it among us. Entering one needs root; without it these tests skip.
"""

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


@pytest.fixture(scope="package", autouse=True)
def loopback_only():
    """Run the package in a fresh network namespace; go back afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            pytest.skip(f"no network namespace ({reason}): interop tests need root")
        raise_loopback()
        yield
    finally:
        libc.setns(before, CLONE_NEWNET)
        os.close(before)


def raise_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


@pytest.fixture
def no_internet():
    """Check the rule: there is no device but loopback."""
    devices = [line.split(":")[0].strip() for line in _device_lines()]
    assert devices == ["lo"]


def _device_lines():
    return Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
