"""Task packages: find, fetch, verify and cache the image of a deployment.

`[hash:[//]sha3:[0x]HEX:]URL` (docs/protocol/activity-exeunit.md §10.1). An image always needs its
hash, and what does not match it is never deployed. `file:` images must lie below a directory that
the operator allows (`SHEM_IMAGE_DIRS`, separated like PATH), whatever links lead there.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from shem.exeunit.runtimes.base import RuntimeFault
from shem.kernel.config import setting
from shem.kernel.world import Rng

IMAGE_SIZE_MAX: Final = 4 << 30
CHUNK_SIZE: Final = 1 << 20
FETCH_TIMEOUT_S: Final = 3_600.0
CONNECT_TIMEOUT_S: Final = 20.0
FETCH_ATTEMPTS: Final = 3
RETRY_DELAY_S: Final = 2.0
_HASHED: Final = re.compile(r"hash:(?://)?(\w+):(?:0x)?([0-9a-fA-F]+):(.*)", re.I | re.S)
_HASHES: Final = {
    28: hashlib.sha3_224,
    32: hashlib.sha3_256,
    48: hashlib.sha3_384,
    64: hashlib.sha3_512,
}
"""SHA-3 by the size of the digest."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A checked task package."""

    url: str
    scheme: str
    digest: bytes

    @property
    def cache_name(self) -> str:
        name = Path(unquote(urlsplit(self.url).path)).name or "image"
        stem, dot, extension = name.partition(".")
        return f"{stem[:64]}_{self.digest.hex()}{dot}{extension[:32]}"


def parse_task_package(text: str) -> ImageSource:
    """Read a task package; RuntimeFault says what is wrong with it."""
    match = _HASHED.fullmatch(text)
    if match is None:
        raise RuntimeFault("Invalid url: Missing hash: a task package is hash:sha3:<hex>:<url>")
    algorithm, hex_digest, url = match.groups()
    if algorithm.lower() != "sha3" or len(hex_digest) not in {2 * size for size in _HASHES}:
        raise RuntimeFault(f"the hash {algorithm} of {len(hex_digest)} hex digits is not SHA-3")
    scheme = urlsplit(url).scheme.lower() or "file"
    if scheme not in ("file", "http", "https"):
        raise RuntimeFault(f"images over {scheme}: are not supported yet")
    return ImageSource(url, scheme, bytes.fromhex(hex_digest))


def allowed_directories() -> tuple[Path, ...]:
    """Return the directories that `file:` images may come from, as the operator set them."""
    text = setting("IMAGE_DIRS") or ""
    return tuple(Path(part).resolve() for part in text.split(os.pathsep) if part)


async def fetch_image(source: ImageSource, cache: Path, allowed: Sequence[Path], rng: Rng) -> Path:
    """Return the local copy of an image, from the cache or fetched and verified."""
    final = cache / source.cache_name
    if final.exists():
        return final
    partial_directory = cache / "tmp"
    partial_directory.mkdir(parents=True, exist_ok=True)
    partial = partial_directory / rng.token(16).hex()
    try:
        if source.scheme == "file":
            await asyncio.to_thread(_copy_local, source, partial, allowed)
        else:
            await _download(source, partial)
        await asyncio.to_thread(_verify_and_keep, source, partial, final)
    except OSError as error:
        raise RuntimeFault(f"the image cannot be kept: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return final


def _copy_local(source: ImageSource, partial: Path, allowed: Sequence[Path]) -> None:
    parts = urlsplit(source.url)
    path = Path(unquote(parts.path)).resolve()
    if parts.netloc not in ("", "localhost") or not any(path.is_relative_to(d) for d in allowed):
        raise RuntimeFault("this provider does not allow the file: image (SHEM_IMAGE_DIRS)")
    try:
        with path.open("rb") as image, partial.open("xb") as copy:
            size = 0
            while chunk := image.read(CHUNK_SIZE):
                size += len(chunk)
                _require_size(size)
                copy.write(chunk)
    except FileNotFoundError:
        raise RuntimeFault("the file: image does not exist on this provider") from None


async def _download(source: ImageSource, partial: Path) -> None:
    """Fetch over HTTP, again after a failed attempt that may pass."""
    import aiohttp

    for attempt in range(1, FETCH_ATTEMPTS + 1):
        try:
            await _download_once(source, partial)
            return
        except (aiohttp.ClientError, TimeoutError) as error:
            refused = isinstance(error, aiohttp.ClientResponseError) and error.status < 500
            if attempt == FETCH_ATTEMPTS or refused:
                raise RuntimeFault(f"the image cannot be downloaded: {error!r}") from error
            await asyncio.sleep(RETRY_DELAY_S * attempt)


async def _download_once(source: ImageSource, partial: Path) -> None:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
        session.get(source.url) as response,
    ):
        with partial.open("wb") as copy:
            size = 0
            async for chunk in response.content.iter_chunked(CHUNK_SIZE):
                size += len(chunk)
                _require_size(size)
                await asyncio.to_thread(copy.write, chunk)


def _require_size(size: int) -> None:
    if size > IMAGE_SIZE_MAX:
        raise RuntimeFault(f"the image is larger than {IMAGE_SIZE_MAX} bytes")


def _verify_and_keep(source: ImageSource, partial: Path, final: Path) -> None:
    """Compare the hash, make the file durable, and give it its name in the cache."""
    digest = _HASHES[len(source.digest)]()
    with partial.open("r+b") as image:
        while chunk := image.read(CHUNK_SIZE):
            digest.update(chunk)
        os.fsync(image.fileno())
    if digest.digest() != source.digest:
        raise RuntimeFault(
            "Incorrect hash provided or downloaded image is corrupted: calculated hash "
            f"{digest.hexdigest()} differs from the expected one {source.digest.hex()}"
        )
    partial.replace(final)
