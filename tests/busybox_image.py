"""A small real image in Golem's VM format: BusyBox, a user, a volume, and a service.

The service (`/srv/counter`, also the entry point) listens on loopback with BusyBox's own `httpd`
and counts in the volume how often it was started; `GET /cgi-bin/hits` counts requests.
"""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shem.exeunit.runtimes.container.image import append_config

BUSYBOX = Path("/bin/busybox")
APPLETS = (
    *("sh", "ls", "cat", "id", "ps", "kill", "sleep", "wget", "httpd", "ip", "mount", "hostname"),
    *("dd", "yes", "head", "mkdir", "ln", "rm", "env", "pwd", "true", "false", "sync", "wc", "nc"),
    *("unshare", "chroot", "stty", "du", "tail", "grep", "echo", "test", "sort", "uniq", "date"),
    *("touch", "chmod", "chown", "mknod", "sha3sum", "sha256sum", "tr", "umount", "seq", "od"),
)
PORT = 8080
COUNTER = f"""#!/bin/sh
echo started >> /data/starts
exec httpd -f -p 127.0.0.1:{PORT} -h /srv/www
"""
HITS = """#!/bin/sh
echo hit >> /data/hits
echo "Content-Type: text/plain"
echo
wc -l < /data/hits
"""
CONFIG: dict[str, Any] = {
    "Env": ["PATH=/bin", "GREETING=hello"],
    "User": "anna",
    "WorkingDir": "/home/anna",
    "Volumes": {"/data": {}},
    "Entrypoint": ["/srv/counter"],
    "Cmd": None,
}


def requires_container() -> pytest.MarkDecorator:
    """Skip where bubblewrap or the tools for images are not installed."""
    needed = ("bwrap", "unshare", "unsquashfs", "mksquashfs")
    missing = [tool for tool in needed if shutil.which(tool) is None]
    missing += [] if BUSYBOX.exists() else ["busybox-static"]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {' '.join(missing)}")


@dataclass(frozen=True)
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
    write_script(root / "srv" / "www" / "cgi-bin" / "hits", HITS)


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
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ})
    append_config(path, {**CONFIG, **config})
    return Image(path)
