"""What a container sees: the namespaces of the keeper, and the sandbox around each program.

The keeper is the first process of new user, mount, process, network, IPC and host name namespaces.
It prepares the mounts there, and every program gets a sandbox of its own below: a further user
namespace, so that no program has any say over what the keeper holds, and a root that shows nothing
but the image, the volumes, a few devices and a /proc whose settings are read-only. (They are files
of the host's root, which may be who runs us: a writable one would be a way out.)
"""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from shem.exeunit.runtimes.container.deployment import Deployment
from shem.exeunit.runtimes.container.image import ImageFault

MERGED: Final = "merged"
LOWER: Final = "lower"
UPPER: Final = "upper"
OVERLAY_WORK: Final = "upper-work"
COPY: Final = "root"
PROC: Final = "proc"
HOSTS: Final = "hosts"
SHARED_MEMORY: Final = "shm"
SHARED_MEMORY_SIZE: Final = 64 << 20
READ_ONLY_PROC: Final = ("sys", "sysrq-trigger", "irq", "bus", "acpi", "fs", "scsi")
HIDDEN_PROC: Final = ("kcore", "keys", "kmsg", "timer_list", "sched_debug", "1/cmdline")
SIGNALLED: Final = 128
"""Added to the number of the signal that ended a process, as shells do."""
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
_NEW_NAMESPACES: Final = 0x7C020000
"""User, mount, process, network, IPC and host name."""
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Go on as the first process of new namespaces; what called us waits and ends as we do."""
    uid, gid = os.geteuid(), os.getegid()
    _call(_LIBC.unshare(_NEW_NAMESPACES), "making namespaces")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    child = os.fork()
    if child != 0:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else SIGNALLED - code)
    _call(_LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "tying ourselves to our parent")
    _call(_LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "closing ourselves to inspection")
    _mount("none", "/", "", MS_REC | MS_PRIVATE, "")
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "")


def prepare(work_dir: Path, deployment: Deployment) -> str:
    """Make the mounts and the network of a container; return the name of its root directory."""
    socket.sethostname(deployment.hostname)
    _raise_loopback()
    names = f"127.0.0.1 localhost {deployment.hostname}\n::1 localhost {deployment.hostname}\n"
    (work_dir / HOSTS).write_text(names)
    _mount_proc(work_dir / PROC)
    _mount_memory(work_dir / SHARED_MEMORY, SHARED_MEMORY_SIZE)
    for mount in deployment.mounts:
        if mount.memory_size is not None:
            _mount_memory(work_dir / mount.name, mount.memory_size)
    return _mount_root(work_dir, Path(deployment.root))


def sandbox(
    work_dir: Path,
    root_name: str,
    deployment: Deployment,
    command: Sequence[str],
    environment: Mapping[str, str],
) -> tuple[list[str], list[str]]:
    """Return bubblewrap's arguments for one program, and the command that it runs.

    `environment` goes before that of the image.
    """
    words = ["--unshare-user", "--disable-userns", "--unshare-cgroup-try", "--cap-drop", "ALL"]
    words += ["--uid", str(deployment.uid), "--gid", str(deployment.gid)]
    words += ["--die-with-parent", "--new-session"]
    words += ["--bind", str(work_dir / root_name), "/"]
    words += ["--bind", str(work_dir / PROC), "/proc", "--dev", "/dev"]
    words += ["--bind", str(work_dir / SHARED_MEMORY), "/dev/shm", "--remount-ro", "/dev"]
    words += ["--ro-bind", str(work_dir / HOSTS), "/etc/hosts"]
    for mount in deployment.mounts:
        words += ["--bind", str(work_dir / mount.name), mount.path]
    config = deployment.config
    words += ["--dir", config.working_dir, "--chdir", config.working_dir, "--clearenv"]
    for item in config.env:
        name, _, value = item.partition("=")
        if name:
            words += ["--setenv", name, value]
    for name, value in environment.items():
        words += ["--setenv", name, value]
    return words, list(command)


def _mount_root(work_dir: Path, image_root: Path) -> str:
    """Lay the activity's own changes over the image; copy the image where that cannot be done."""
    for name in (MERGED, LOWER, UPPER, OVERLAY_WORK):
        (work_dir / name).mkdir(exist_ok=True)
    if (work_dir / COPY).exists():
        return COPY
    _mount(str(image_root), str(work_dir / LOWER), "", MS_BIND, "")
    os.chdir(work_dir)  # relative layers: a container sees their names
    options = f"lowerdir={LOWER},upperdir={UPPER},workdir={OVERLAY_WORK},userxattr"
    try:
        _mount("overlay", MERGED, "overlay", MS_NOSUID | MS_NODEV, options)
    except OSError:
        pass  # an older kernel, or a file system that cannot be a layer
    else:
        return MERGED
    partial = work_dir / (COPY + ".new")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(image_root, partial, symlinks=True)
    partial.rename(work_dir / COPY)
    return COPY


def _mount_proc(target: Path) -> None:
    """Mount a /proc of our processes in which no setting of the host can be changed."""
    target.mkdir(exist_ok=True)
    _mount("proc", str(target), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "")
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    for name in READ_ONLY_PROC:
        path = str(target / name)
        if os.path.lexists(path):
            _mount(path, path, "", MS_BIND, "")
            _mount("", path, "", flags, "")
    for name in HIDDEN_PROC:
        path = str(target / name)
        if os.path.lexists(path):
            with suppress(OSError):
                _mount("/dev/null", path, "", MS_BIND, "")


def _mount_memory(target: Path, size: int) -> None:
    target.mkdir(exist_ok=True)
    _mount("tmpfs", str(target), "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},mode=0755")


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    words = [word.encode() for word in (source, target, kind, options)]
    done = _LIBC.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
    _call(done, f"mounting {kind or 'a part'} at {target}")


def _call(done: int, what: str) -> None:
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _raise_loopback() -> None:
    """Bring up the one network interface that there is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sH14x", b"lo", 0)
        [flags] = struct.unpack_from("H", fcntl.ioctl(handle, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def require_tools() -> None:
    """Refuse to work without the programs that we call."""
    for tool in ("bwrap", "unsquashfs"):
        if shutil.which(tool) is None:
            raise ImageFault(f"there is no {tool} on this machine")
