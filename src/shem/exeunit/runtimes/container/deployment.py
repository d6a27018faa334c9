"""What one activity has of an image: the file that `deploy` writes and `start` reads."""

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from shem.exeunit.runtimes.container.image import (
    ImageConfig,
    ImageFault,
    read_config,
    require_path,
)
from shem.exeunit.runtimes.container.limits import ContainerLimits
from shem.exeunit.runtimes.container.unpack import unpacked

RECORD_NAME: Final = "container.json"
DEFAULT_HOSTNAME: Final = "container"
HOSTNAME_MAX: Final = 64
IDS_MAX: Final = 65_534
RESERVED: Final = ("/", "/proc", "/dev")
"""Where no volume may lie, nor below the last two."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume: a directory of the work directory, or memory."""

    path: str
    name: str
    memory_size: int | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """Everything that `start` has to know."""

    root: str
    config: ImageConfig
    mounts: tuple[Mount, ...]
    hostname: str
    uid: int
    gid: int

    def reply(self) -> dict[str, Any]:
        """Return what the supervisor is told."""
        volumes = [
            {"name": mount.name, "path": mount.path}
            for mount in self.mounts
            if mount.memory_size is None
        ]
        return {"valid": {"Ok": ""}, "vols": volumes, "startMode": "blocking"}


def deploy(
    work_dir: Path,
    image: Path,
    *,
    wishes: Mapping[str, Any],
    hostname: str | None,
    limits: ContainerLimits,
) -> Deployment:
    """Make a deployment of an image in a work directory."""
    config = read_config(image)
    mounts = _mounts(config, wishes)
    in_memory = sum(mount.memory_size or 0 for mount in mounts)
    if limits.memory_size is not None and in_memory > limits.memory_size:
        raise ImageFault(f"volumes in memory of {in_memory} bytes are more than there is")
    root = unpacked(image, limits.storage_size)
    uid, gid = _ids(root, config.user)
    for mount in mounts:
        (work_dir / mount.name).mkdir()
    deployment = Deployment(str(root), config, mounts, _hostname(hostname), uid, gid)
    partial = work_dir / (RECORD_NAME + ".new")
    partial.write_text(json.dumps(asdict(deployment), indent=2))
    partial.replace(work_dir / RECORD_NAME)
    return deployment


def load(work_dir: Path) -> Deployment:
    """Read what `deploy` has made; ImageFault when there is nothing of use."""
    try:
        body = json.loads((work_dir / RECORD_NAME).read_text())
        config: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in body["config"].items()
        }
        mounts = tuple(Mount(**mount) for mount in body["mounts"])
        return Deployment(**{**body, "config": ImageConfig(**config), "mounts": mounts})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageFault(f"there is no deployment to start: {error!r}") from error


def _mounts(config: ImageConfig, wishes: Mapping[str, Any]) -> tuple[Mount, ...]:
    """Return the volumes of the image and those asked for; the wish counts where both are."""
    sizes: dict[str, int | None] = dict.fromkeys(config.volumes)
    for path, wish in wishes.items():
        [(kind, options)] = wish.items()
        sizes[require_path(path)] = int(options["size"]) if kind == "ram" else None
    for path in sizes:
        if path in RESERVED or path.startswith(("/proc/", "/dev/")):
            raise ImageFault(f"a volume cannot lie at {path}")
    return tuple(
        Mount(path, f"vol-{uuid.uuid4().hex}", size) for path, size in sorted(sizes.items())
    )


def _hostname(wanted: str | None) -> str:
    name = wanted or DEFAULT_HOSTNAME
    if len(name) > HOSTNAME_MAX or not name.replace("-", "").replace(".", "").isalnum():
        raise ImageFault(f"{name[:HOSTNAME_MAX]!r} is not a hostname")
    return name


def _ids(root: Path, user: str) -> tuple[int, int]:
    """Return the user and group that programs run as; names are those of the image."""
    name, _, group = user.partition(":")
    uid, gid = 0, 0
    if name.isdigit():
        uid = int(name)
    elif name:
        fields = _line_of(root, "passwd", name)
        uid, gid = int(fields[2]), int(fields[3])
    if group.isdigit():
        gid = int(group)
    elif group:
        gid = int(_line_of(root, "group", group)[2])
    if not 0 <= uid <= IDS_MAX or not 0 <= gid <= IDS_MAX:
        raise ImageFault(f"the image wants to run as {user}")
    return uid, gid


def _line_of(root: Path, file_name: str, name: str) -> list[str]:
    """Find a name in a file of the image, which may be a link to anywhere and is then not read."""
    try:
        etc = os.open(root / "etc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            handle = os.open(file_name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=etc)
        finally:
            os.close(etc)
        with open(handle, errors="replace") as file:  # noqa: PTH123 - a descriptor
            text = file.read(1 << 20)
    except OSError as error:
        raise ImageFault(f"the image has no /etc/{file_name} to find {name} in") from error
    for line in text.splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) > 3 and fields[2].isdigit():
            return fields
    raise ImageFault(f"the image's /etc/{file_name} has no {name}")
