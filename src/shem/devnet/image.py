"""A small real image in Golem's VM format: BusyBox, a user, a volume, and a service.

The service (`/srv/counter`, also the entry point) listens on loopback with BusyBox's own `httpd`
and counts in the volume how often it was started; `GET /cgi-bin/hits` counts requests. `/srv/clock`
is the same with a clock that ticks beside it; `GET /cgi-bin/story` tells how often the service was
started, how often it was asked, how many seconds it has run and the longest pause of its clock. A
driver: it runs `mksquashfs`.
"""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shem.exeunit.runtimes.container.image import append_config

BUSYBOX: Final = Path("/bin/busybox")
APPLETS: Final = (
    *("sh", "ls", "cat", "id", "ps", "kill", "sleep", "wget", "httpd", "ip", "mount", "hostname"),
    *("dd", "yes", "head", "mkdir", "ln", "rm", "env", "pwd", "true", "false", "sync", "wc", "nc"),
    *("unshare", "chroot", "stty", "du", "tail", "grep", "echo", "test", "sort", "uniq", "date"),
    *("touch", "chmod", "chown", "mknod", "sha3sum", "sha256sum", "tr", "umount", "seq", "od"),
    "awk",
)
PORT: Final = 8080
COUNTER: Final = f"""#!/bin/sh
echo started >> /data/starts
exec httpd -f -p 127.0.0.1:{PORT} -h /srv/www
"""
HITS: Final = """#!/bin/sh
echo hit >> /data/hits
echo "Content-Type: text/plain"
echo
wc -l < /data/hits
"""
CLOCK: Final = f"""#!/bin/sh
echo started >> /data/starts
while true; do date +%s >> /data/ticks; sleep 1; done &
exec httpd -f -p 127.0.0.1:{PORT} -h /srv/www
"""
STORY: Final = """#!/bin/sh
echo hit >> /data/hits
echo "Content-Type: text/plain"
echo
echo $(wc -l < /data/starts) $(wc -l < /data/hits) $(awk '
NR == 1 { first = last = $1 }
$1 - last > pause { pause = $1 - last }
{ last = $1 }
END { print last - first, pause + 0 }' /data/ticks)
"""
TOOLS: Final = {
    "mksquashfs": "squashfs-tools",
    "unsquashfs": "squashfs-tools",
    "bwrap": "bubblewrap",
}
"""What is called, and the Debian package that has it."""
LOADERS: Final = (b"/ld-linux", b"/ld-musl", b"/ld.so")
"""One of these is named at the head of a program that needs libraries."""
HEAD_SIZE: Final = 4_096
CONFIG: Final[dict[str, Any]] = {
    "Env": ["PATH=/bin", "GREETING=hello"],
    "User": "anna",
    "WorkingDir": "/home/anna",
    "Volumes": {"/data": {}},
    "Entrypoint": ["/srv/counter"],
    "Cmd": None,
}


def obstacle() -> str | None:
    """Return what is missing to make and run the image, or None."""
    missing = {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    head = BUSYBOX.read_bytes()[:HEAD_SIZE] if BUSYBOX.exists() else b""
    if not head or any(loader in head for loader in LOADERS):
        missing.add("busybox-static")
    return f"not installed: {', '.join(sorted(missing))}" if missing else None


@dataclass(frozen=True, slots=True)
class Image:
    """An image file and its hash."""

    path: Path

    @property
    def sha3_256(self) -> str:
        return hashlib.sha3_256(self.path.read_bytes()).hexdigest()


def write_tree(root: Path) -> None:
    """Lay out the files of the image."""
    for name in ("bin", "etc", "home/anna", "srv/www/cgi-bin", "tmp", "proc", "dev", "data"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nanna:x:1000:1000::/home/anna:\n")
    (root / "etc" / "group").write_text("root:x:0:\nanna:x:1000:\n")
    (root / "etc" / "marker").write_text("this is the image\n")
    write_script(root / "srv" / "counter", COUNTER)
    (root / "srv" / "www" / "index.html").write_text("it is up\n")
    write_script(root / "srv" / "clock", CLOCK)
    write_script(root / "srv" / "www" / "cgi-bin" / "hits", HITS)
    write_script(root / "srv" / "www" / "cgi-bin" / "story", STORY)


def write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def write_image(directory: Path, name: str = "busybox.gvmi", **config: Any) -> Image:
    """Make the image; `config` changes its configuration."""
    root = directory / (name + ".tree")
    write_tree(root)
    return pack_image(root, directory / name, **config)


def pack_image(root: Path, path: Path, **config: Any) -> Image:
    """Make a directory an image."""
    path.unlink(missing_ok=True)
    command = ["mksquashfs", str(root), str(path), "-noappend", "-quiet", "-no-progress"]
    command += ["-comp", "gzip", "-all-root"]
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, env={**os.environ}, start_new_session=True
    )
    append_config(path, {**CONFIG, **config})
    return Image(path)
