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
import pytest_asyncio

from tests.interop.town import town_at

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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_town(loopback_only, tmp_path_factory):
    async with town_at(tmp_path_factory.mktemp("town")) as town:
        yield town


@pytest_asyncio.fixture(loop_scope="module")
async def town(shared_town):
    """The module's town, whole again whatever the test before did to it."""
    await shared_town.whole_again()
    return shared_town
