"""The files of an image, unpacked once per provider, next to the image in the cache.

A squashfs is a program's input like any other: `unsquashfs` runs in a sandbox that holds its
libraries, the image and the target, and the sizes in the image are added up before anything is
written. All files belong to the user who runs the ExeUnit; devices and ownership are left out.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from shem.exeunit.runtimes.container.image import ImageFault

UNPACKED_SIZE_MAX: Final = 64 << 30
FILES_MAX: Final = 2_000_000
UNPACK_TIMEOUT_S: Final = 900.0
ERROR_TEXT_MAX: Final = 300
LINE_SIZE_MAX: Final = 1 << 16
NON_FATAL: Final = 2
"""unsquashfs could not make a device or give a file away, which is what we want."""
_MODEST: Final = ("-processors", "2", "-data-queue", "32", "-frag-queue", "32")
"""Megabytes of queues, which otherwise depend on the machine."""
_SYSTEM: Final = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32")


def unpacked(image: Path, size_max: int | None) -> Path:
    """Return the directory with the files of an image, which nobody may change."""
    root = image.with_name(image.name + ".root")
    if root.is_dir():
        return root
    partial = image.with_name(image.name + ".unpacking")
    with image.with_name(image.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.is_dir():
            return root
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            _require_size(image, min(size_max or UNPACKED_SIZE_MAX, UNPACKED_SIZE_MAX))
            _unpack(image, partial)
            os.sync()  # a name in the cache stands for whole contents
            (partial / "root").rename(root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return root


def _require_size(image: Path, size_max: int) -> None:
    """Add up the sizes that the image states; ImageFault when they are more than allowed."""
    command = _sandboxed(image, None, ["unsquashfs", "-lln", "/image"])
    total = count = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as listing:
        assert listing.stdout is not None
        try:
            while line := listing.stdout.readline(LINE_SIZE_MAX):
                words = line.split(maxsplit=3)
                count += 1
                if len(words) > 2 and words[0].startswith(b"-") and words[2].isdigit():
                    total += int(words[2])
                if total > size_max or count > FILES_MAX:
                    raise ImageFault(
                        f"the image holds more than {size_max} bytes or {FILES_MAX} files"
                    )
        finally:
            listing.kill()


def _unpack(image: Path, target: Path) -> None:
    words = ["unsquashfs", "-no-progress", "-no-xattrs", "-quiet", *_MODEST, "-d", "/out/root"]
    words.append("/image")
    try:
        done = subprocess.run(
            _sandboxed(image, target, words),
            capture_output=True,
            check=False,
            timeout=UNPACK_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise ImageFault(f"the image was not unpacked in {UNPACK_TIMEOUT_S:g} s") from None
    if done.returncode not in {0, NON_FATAL} or not (target / "root").is_dir():
        said = done.stderr.decode(errors="replace").strip()[-ERROR_TEXT_MAX:]
        raise ImageFault(f"the image cannot be unpacked: {said}")


def _sandboxed(image: Path, target: Path | None, command: Sequence[str]) -> list[str]:
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += ["--uid", "1000", "--gid", "1000", "--clearenv", "--setenv", "PATH", "/usr/bin:/bin"]
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            words += ["--ro-bind", str(path), str(path)]
    words += ["--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", str(image), "/image"]
    if target is not None:
        words += ["--bind", str(target), "/out"]
    return [*words, "--", *command]
