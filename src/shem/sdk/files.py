"""Files of this machine in scripts: what `Upload` and `Download` become when they are sent.

An upload is served under a name that is the hash of its content, so every program that serves the
same file serves the same URL: a transfer that was cut goes on when one of them is back. A place to
download to has a name of its own each time. What a batch needs is served until its end was seen, or
the `Golem` is closed.
"""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from shem.kernel.errors import UsageError
from shem.kernel.world import World
from shem.rest.models import Properties
from shem.sdk.errors import GolemError, NotSupported
from shem.sdk.gftp import Gftp
from shem.sdk.script import Command, Download, Transfer, Upload, place

PROTOCOLS: Final = "golem.activity.caps.transfer.protocol"
NETWORK: Final = ("http", "https", "gftp")
_HASH_NAME: Final = re.compile(r".*/([0-9a-f]{64})(-[0-9A-Za-z]+)?")


class Files:
    """What one `Golem` serves."""

    def __init__(self, world: World, gsb_url: str | None = None) -> None:
        self._gftp = Gftp(world, gsb_url)
        self._uses: Counter[str] = Counter()
        self._by_batch: dict[str, tuple[str, ...]] = {}

    async def serve(
        self, commands: Sequence[Command]
    ) -> tuple[tuple[Command, ...], tuple[str, ...]]:
        """Return the commands as they are sent, and the URLs that they need."""
        sent: list[Command] = []
        urls: list[str] = []
        try:
            for command in commands:
                match command:
                    case Upload():
                        urls.append(await self._publish(command))
                        sent.append(_upload(command, urls[-1]))
                    case Download():
                        urls.append(await self._receive(command))
                        sent.append(_download(command, urls[-1]))
                    case _:
                        sent.append(command)
        except BaseException:
            with suppress(GolemError):
                await self.release(urls)
            raise
        return tuple(sent), tuple(urls)

    def keep(self, batch_id: str, urls: tuple[str, ...]) -> None:
        """Serve these until the batch has ended."""
        if urls:
            self._by_batch[batch_id] = urls

    async def ended(self, batch_id: str) -> None:
        """Note that a batch has ended: what only it needed is served no longer."""
        urls = self._by_batch.pop(batch_id, ())
        with suppress(GolemError):  # of no concern to whoever reads the results
            await self.release(urls)

    async def release(self, urls: Sequence[str]) -> None:
        """Serve these no longer, unless another batch needs them."""
        for url in urls:
            self._uses[url] -= 1
        unused = [url for url in urls if self._uses[url] <= 0]
        for url in unused:
            self._uses.pop(url, None)
        await self._gftp.close(unused)

    async def close(self) -> None:
        """Serve nothing any more."""
        self._by_batch.clear()
        self._uses.clear()
        await self._gftp.end()

    async def _publish(self, command: Upload) -> str:
        url = await self._gftp.publish(_existing(command.local))
        self._uses[url] += 1
        return url

    async def _receive(self, command: Download) -> str:
        url = await self._gftp.receive(_writable(command.local))
        self._uses[url] += 1
        return url


def _existing(local: Path | str) -> Path:
    path = Path(local).absolute()
    if not path.is_file():
        raise UsageError(f"{local} is not a file")
    return path


def _writable(local: Path | str) -> Path:
    path = Path(local).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{local} cannot be written: it is no file in a directory")
    return path


def is_ours(command: Command) -> bool:
    """Tell whether a command needs a file that we serve."""
    return isinstance(command, Upload | Download)


def require_protocols(commands: Sequence[Command], offer: Properties) -> None:
    """Raise NotSupported when the provider has said that it cannot do one of the transfers."""
    offered = offer.get(PROTOCOLS)
    for command in commands:
        for scheme in _schemes(command):
            if isinstance(offered, list) and scheme not in offered:
                raise NotSupported(
                    f"this provider does not transfer files by {scheme}: it offers"
                    f" {', '.join(map(str, offered)) or 'no transfers'}"
                )


def _schemes(command: Command) -> tuple[str, ...]:
    if is_ours(command):
        return ("gftp",)
    if not isinstance(command, Transfer):
        return ()
    sides = (_without_hash(place(side)) for side in (command.source, command.target))
    schemes = (side.partition(":")[0].lower() for side in sides)
    return tuple(scheme for scheme in schemes if scheme in NETWORK)


def _without_hash(text: str) -> str:
    return text.split(":", 3)[-1] if text.lower().startswith("hash:") else text


def _upload(command: Upload, url: str) -> Transfer:
    digest = _HASH_NAME.fullmatch(url)
    source = url if digest is None else f"hash:sha3:{digest[1]}:{url}"
    return Transfer(source, command.remote, command.format)


def _download(command: Download, url: str) -> Transfer:
    return Transfer(command.remote, url, command.format, command.depth, command.fileset)
