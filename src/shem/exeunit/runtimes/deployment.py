"""What a runtime binary said of its deployment, and the file that keeps it.

Pure but for the file (docs/protocol/activity-exeunit.md §9.2). The binary names directories below
the work directory; a name that leads anywhere else is refused.
"""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from shem.exeunit.runtimes.base import RuntimeFault, Volume

RECORD_NAME: Final = "runtime.json"
VOLUMES_MAX: Final = 64
BLOCKING: Final = "blocking"
EMPTY: Final = "empty"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment; `volumes` maps a path inside to the name of a directory in the work dir."""

    image: Path | None
    volumes: dict[str, str]
    is_service: bool
    """One process that serves all commands, instead of a process for each."""
    start_args: tuple[str, ...] | None = None
    """Those of the last start that worked."""

    def places(self, work_dir: Path) -> tuple[Volume, ...]:
        return tuple(Volume(path, work_dir / name) for path, name in self.volumes.items())


def parse_deploy_reply(text: str, image: Path | None) -> Deployment:
    """Read what `deploy` printed; RuntimeFault when it is no answer."""
    body: Any = {}
    if text.strip():
        try:
            body, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])
        except (ValueError, RecursionError) as error:
            raise RuntimeFault(f"invalid deploy response: {error}") from error
    try:
        mode = body.get("startMode", EMPTY)
        listed = body.get("vols", [])
        volumes = {_inside(volume["path"]): _name(volume["name"]) for volume in listed}
    except (KeyError, TypeError, AttributeError) as error:
        raise RuntimeFault(f"invalid deploy response: {error!r}") from error
    if mode not in (EMPTY, BLOCKING):
        raise RuntimeFault(f"invalid deploy response: there is no start mode {mode!r}")
    if len(volumes) > VOLUMES_MAX:
        raise RuntimeFault(f"a deployment has at most {VOLUMES_MAX} volumes")
    return Deployment(image, volumes, mode == BLOCKING)


def write_deployment(work_dir: Path, deployment: Deployment) -> None:
    """Keep a deployment for the ExeUnit that may come after this one."""
    image = deployment.image
    start_args = deployment.start_args
    body = {
        "image": None if image is None else str(image),
        "volumes": deployment.volumes,
        "service": deployment.is_service,
        "startArgs": None if start_args is None else list(start_args),
    }
    partial = work_dir / (RECORD_NAME + ".new")
    partial.write_text(json.dumps(body, indent=2))
    partial.replace(work_dir / RECORD_NAME)


def read_deployment(work_dir: Path) -> Deployment:
    """Read what was kept; RuntimeFault when there is nothing of use."""
    try:
        body = json.loads((work_dir / RECORD_NAME).read_text())
        image, start_args = body["image"], body["startArgs"]
        return Deployment(
            image=None if image is None else Path(image),
            volumes={str(path): _name(name) for path, name in body["volumes"].items()},
            is_service=bool(body["service"]),
            start_args=None if start_args is None else tuple(map(str, start_args)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RuntimeFault(f"the deployment cannot be read: {error!r}") from error


def _inside(path: object) -> str:
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise RuntimeFault(f"invalid deploy response: the volume path {path!r}")
    pure = PurePosixPath(path)
    if ".." in pure.parts:
        raise RuntimeFault(f"invalid deploy response: the volume path {path!r}")
    return str(pure)


def _name(name: object) -> str:
    if not isinstance(name, str) or "/" in name or "\0" in name or name in ("", ".", ".."):
        raise RuntimeFault(f"invalid deploy response: the volume name {name!r}")
    return name
