"""Network namespaces with one TUN device each: the plumbing under `internet`.

A namespace is named after the process that made it (`shem<pid>-<host>`), so that what a killed one
left behind is recognised and removed by the next. A driver: it runs Linux's `ip`.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shem.kernel.errors import ShemError

CLONE_NEWNET: Final = 0x40000000
TUNSETIFF: Final = 0x400454CA
IFF_TUN: Final = 0x1
IFF_NO_PI: Final = 0x1000
DEVICE: Final = "net0"
MTU: Final = 1500
NAMED: Final = Path("/run/netns")
TUN: Final = Path("/dev/net/tun")
MARK: Final = "shem"
COMMAND_TIMEOUT_S: Final = 20
TOOLS: Final = {"ip": "iproute2", "nsenter": "util-linux"}
"""What is run, and the Debian package that has it."""
_NAME = re.compile(r"[a-z]+(?P<pid>\d+)-.+")
_libc = ctypes.CDLL(None, use_errno=True)


def obstacle() -> str | None:
    """Return why namespaces cannot be used here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not TUN.exists():
        return f"there is no {TUN}"
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            return f"not installed: {package}"
    name = name_of("probe")
    try:
        space = Namespace(name)
    except (OSError, NamespaceError) as error:
        return f"no network namespaces: {error}"
    try:
        os.close(space.open_tun())
    except OSError as error:
        return f"no TUN devices: {error}"
    finally:
        space.delete()
    return None


def name_of(host: str) -> str:
    """Return the name of this process's namespace for a host."""
    return f"{MARK}{os.getpid()}-{host}"


def left_behind() -> list[str]:
    """Return the names of this process's namespaces."""
    return sorted(path.name for path in NAMED.glob(name_of("*")))


def sweep(mark: str = MARK) -> None:
    """End what processes that are gone have left, and delete their namespaces.

    Several processes start at once: whoever sweeps first may take a namespace from the others.
    """
    for path in NAMED.glob(f"{mark}*-*") if NAMED.exists() else ():
        match = _NAME.fullmatch(path.name)
        if match and not Path(f"/proc/{match['pid']}").exists():
            with contextlib.suppress(NamespaceError):
                for pid in _ip("netns", "pids", path.name).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                _ip("netns", "delete", path.name)


class NamespaceError(ShemError):
    """`ip` refused."""

    code = "namespace"


class Namespace:
    """One named namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        _ip("netns", "add", name)
        self._entry = os.open(NAMED / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.ip("link set lo up")
        except BaseException:
            self.delete()
            raise

    @property
    def enter(self) -> tuple[str, ...]:
        """What to put before a command that is to run here."""
        return ("nsenter", f"--net={NAMED / self.name}")

    def delete(self) -> None:
        os.close(self._entry)
        _ip("netns", "delete", self.name)

    def ip(self, *commands: str) -> None:
        """Run `ip` commands here, in one go."""
        _ip("-n", self.name, "-batch", "-", stdin="\n".join(commands))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be here for the block, which must not await: sockets made in it belong here."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(self._entry)
            try:
                yield
            finally:
                _setns(before)
        finally:
            os.close(before)

    def open_tun(self) -> int:
        """Return the other end of a new device `net0`."""
        with self.entered():
            tun = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                request = struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI)
                fcntl.ioctl(tun, TUNSETIFF, request)
            except OSError:
                os.close(tun)
                raise
        self.ip(f"link set {DEVICE} mtu {MTU} up")
        return tun

    def open_tcp(self) -> socket.socket:
        with self.entered():
            opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setblocking(False)
        return opened


def _setns(entry: int) -> None:
    if _libc.setns(entry, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _ip(*arguments: str, stdin: str = "") -> str:
    """Run `ip`, out of reach of a Ctrl-C at our terminal, which would break it off half-way."""
    done = subprocess.run(
        ["ip", *arguments],
        input=stdin,
        check=False,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        start_new_session=True,
    )
    if done.returncode != 0:
        raise NamespaceError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
