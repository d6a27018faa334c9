"""An image in Golem's VM format: a squashfs with its configuration at the end.

`squashfs … | crc32 (u32 LE) | JSON | eight digits: the length of the JSON`, the checksum being that
of the JSON, which says what Docker's configuration of a container says
(docs/protocol/activity-exeunit.md §9.6). Pure but for reading the file.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from shem.kernel.errors import UsageError

MAGIC: Final = b"hsqs"
LENGTH_DIGITS: Final = 8
CONFIG_SIZE_MAX: Final = 1 << 20
VOLUMES_MAX: Final = 32
WORDS_MAX: Final = 1_024
DEFAULT_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ImageFault(UsageError):
    """The image cannot be deployed."""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How programs of an image are run."""

    env: tuple[str, ...] = (DEFAULT_PATH,)
    user: str = ""
    working_dir: str = "/"
    volumes: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    """What `start-entrypoint` runs: entry point and command together."""


def read_config(image: Path) -> ImageConfig:
    """Read the configuration of an image; ImageFault says why it is none."""
    try:
        with image.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ImageFault("the image is not a squashfs")
            end = file.seek(0, 2)
            digits = _read_before(file, end, LENGTH_DIGITS)
            if not digits.isdigit() or int(digits) > min(CONFIG_SIZE_MAX, end):
                raise ImageFault("the image has no configuration at its end")
            text = _read_before(file, end - LENGTH_DIGITS, int(digits))
            crc = _read_before(file, end - LENGTH_DIGITS - len(text), 4)
    except OSError as error:
        raise ImageFault(f"the image cannot be read: {error}") from error
    if int.from_bytes(crc, "little") != zlib.crc32(text):
        raise ImageFault("the configuration of the image is damaged")
    return parse_config(text)


def append_config(image: Path, config: dict[str, Any]) -> None:
    """Make a squashfs an image."""
    text = json.dumps(config).encode()
    trailer = zlib.crc32(text).to_bytes(4, "little") + text + b"%08d" % len(text)
    with image.open("ab") as file:
        file.write(trailer)


def parse_config(text: bytes) -> ImageConfig:
    """Read Docker's form of a configuration."""
    try:
        body = json.loads(text)
        volumes = tuple(body.get("Volumes") or ())
        words = _texts(body, "Entrypoint") + _texts(body, "Cmd")
        config = ImageConfig(
            env=_texts(body, "Env"),
            user=_text(body, "User"),
            working_dir=require_path(_text(body, "WorkingDir") or "/"),
            volumes=tuple(require_path(path) for path in volumes),
            entrypoint=words,
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ImageFault(f"the configuration of the image is malformed: {error}") from error
    if len(config.volumes) > VOLUMES_MAX:
        raise ImageFault(f"an image has at most {VOLUMES_MAX} volumes")
    if not any(item.startswith("PATH=") for item in config.env):
        return ImageConfig(
            (*config.env, DEFAULT_PATH),
            config.user,
            config.working_dir,
            config.volumes,
            config.entrypoint,
        )
    return config


def require_path(path: object) -> str:
    """Return a path inside a container; ImageFault for what leads out of it."""
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise ImageFault(f"{path!r} is not an absolute path")
    pure = PurePosixPath("/" + path.lstrip("/"))
    if ".." in pure.parts:
        raise ImageFault(f"{path!r} is not an absolute path")
    return str(pure)


def _read_before(file: Any, end: int, size: int) -> bytes:
    file.seek(max(0, end - size))
    data: bytes = file.read(size)
    if len(data) < size:
        raise ImageFault("the image has no configuration at its end")
    return data


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name) or ""
    if not isinstance(value, str) or "\0" in value:
        raise ImageFault(f"{name} in the configuration of the image is no text")
    return value


def _texts(body: dict[str, Any], name: str) -> tuple[str, ...]:
    value = body.get(name) or []
    if not isinstance(value, list) or len(value) > WORDS_MAX:
        raise ImageFault(f"{name} in the configuration of the image is no list")
    if not all(isinstance(item, str) and "\0" not in item for item in value):
        raise ImageFault(f"{name} in the configuration of the image is no list of texts")
    return tuple(value)
