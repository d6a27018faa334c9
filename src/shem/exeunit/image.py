"""Task packages: find, fetch, verify and cache the image of a deployment.

`hash:[//]sha3:[0x]HEX:URL` (docs/protocol/activity-exeunit.md §10.1). An image always needs its
hash, and what does not match it is never deployed. `file:` images must lie below a directory that
the operator allows (`SHEM_IMAGE_DIRS`, separated like PATH), whatever links lead there.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from shem.exeunit.runtimes.base import RuntimeFault
from shem.exeunit.transfer.location import NETWORK, Location, Scheme, parse_location
from shem.exeunit.transfer.mover import Mover, Progress, verify
from shem.kernel.config import setting
from shem.kernel.world import Rng

IMAGE_SIZE_MAX: Final = 16 << 30
CHUNK_SIZE: Final = 1 << 20


def parse_task_package(text: str) -> Location:
    """Read a task package; RuntimeFault says what is wrong with it."""
    location = parse_location(text, Scheme.FILE)
    if location.digest is None:
        raise RuntimeFault("Invalid url: Missing hash: a task package is hash:sha3:<hex>:<url>")
    if location.scheme is Scheme.CONTAINER:
        raise RuntimeFault("an image cannot come from inside a container")
    return location


def cache_name(source: Location) -> str:
    """Return the name of an image in the cache."""
    assert source.digest is not None
    stem, dot, extension = (source.file_name or "image").partition(".")
    return f"{stem[:64]}_{source.digest.hex()}{dot}{extension[:32]}"


def allowed_directories() -> tuple[Path, ...]:
    """Return the directories that `file:` images may come from, as the operator set them."""
    text = setting("IMAGE_DIRS") or ""
    return tuple(Path(part).resolve() for part in text.split(os.pathsep) if part)


@dataclass(frozen=True, slots=True)
class Images:
    """The images of a provider: a cache that its ExeUnits share."""

    cache: Path
    mover: Mover
    rng: Rng
    allowed: Sequence[Path] = ()

    async def fetch(self, source: Location, progress: Progress) -> tuple[Path, bool]:
        """Return the local copy of an image, and whether it was there already."""
        final = self.cache / cache_name(source)
        if final.exists():
            return final, True
        partial_directory = self.cache / "tmp"
        partial = partial_directory / self.rng.token(16).hex()
        try:
            await asyncio.to_thread(partial_directory.mkdir, parents=True, exist_ok=True)
            if source.scheme in NETWORK:
                limit = IMAGE_SIZE_MAX
                await self.mover.fetch(source, partial, size_max=limit, progress=progress)
            else:
                await asyncio.to_thread(_copy_local, source, partial, self.allowed)
            await asyncio.to_thread(_keep, partial, final)
        except OSError as error:
            raise RuntimeFault(f"the image cannot be kept: {error}") from error
        finally:
            partial.unlink(missing_ok=True)
        return final, False


def _copy_local(source: Location, partial: Path, allowed: Sequence[Path]) -> None:
    parts = urlsplit(source.url)
    path = Path(unquote(parts.path)).resolve()
    if parts.netloc not in ("", "localhost") or not any(path.is_relative_to(d) for d in allowed):
        raise RuntimeFault("this provider does not allow the file: image (SHEM_IMAGE_DIRS)")
    try:
        with path.open("rb") as image, partial.open("xb+") as copy:
            size = 0
            while chunk := image.read(CHUNK_SIZE):
                size += len(chunk)
                if size > IMAGE_SIZE_MAX:
                    raise RuntimeFault(f"the image is larger than {IMAGE_SIZE_MAX} bytes")
                copy.write(chunk)
            copy.flush()
            verify(copy.fileno(), source.digest)
    except FileNotFoundError:
        raise RuntimeFault("the file: image does not exist on this provider") from None


def _keep(partial: Path, final: Path) -> None:
    """Make a verified image durable, and give it its name in the cache."""
    with partial.open("rb") as image:
        os.fsync(image.fileno())
    partial.replace(final)
