"""`shem gftp`, also installed as `gftp`: what SDKs spawn to move files.

Docs: docs/protocol/activity-exeunit.md §10.3. One-shot commands print `{"result": …}`; with -v the
whole JSON-RPC answer. What they publish or await lasts until they are interrupted.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import click

from shem.cli.main import Options, main
from shem.kernel import log as logs
from shem.kernel.config import DEFAULT_GSB_URL, parse_gsb_url, setting

if TYPE_CHECKING:
    from shem.gftp.rpc import Gftp

LINE_END: Final = "\r\n"


@click.group()
@click.option("-v", "--verbose", is_flag=True, help="Print whole JSON-RPC answers.")
@click.pass_context
def gftp(ctx: click.Context, verbose: bool) -> None:
    """Move files between nodes."""
    options = ctx.find_object(Options)
    url = options.gsb_url if options is not None else None
    ctx.obj = _Place(url or setting("GSB_URL", "GSB_URL") or DEFAULT_GSB_URL, verbose)


class _Place:
    """Where the node is, and how much is told."""

    def __init__(self, gsb_url: str, verbose: bool) -> None:
        self.gsb_url = gsb_url
        self._verbose = verbose

    def run(self, work: "Callable[[Gftp], Awaitable[None]]", *, stays: bool = False) -> None:
        """Run `work` while connected; a command that stays connects again when it has to."""

        async def connected() -> None:
            from shem.bus.client import BusClient
            from shem.gftp.rpc import open_gftp
            from shem.kernel.world import World

            logs.configure()
            world = World()
            client = BusClient(
                parse_gsb_url(self.gsb_url), name="shem-gftp", reconnect=stays, world=world
            )
            async with client:
                opened = await open_gftp(client, world)
                try:
                    await work(opened)
                finally:
                    await opened.publisher.close_all()

        asyncio.run(connected())

    def one_shot(self, verb: str, params: dict[str, Any]) -> None:
        """Do one thing and show its result."""

        async def work(opened: "Gftp") -> None:
            self.show(await opened.do(verb, params))

        self.run(work)

    def show(self, result: object) -> None:
        body: dict[str, object] = {"result": result}
        if self._verbose:
            body = {"jsonrpc": "2.0", "id": None, **body}
        click.echo(json.dumps(body))
        sys.stdout.flush()


@gftp.command()
@click.pass_obj
def version(place: _Place) -> None:
    """Print the version."""
    from shem.gftp.rpc import version_text

    place.show(version_text())


@gftp.command()
@click.argument("files", nargs=-1, required=True)
@click.pass_obj
def publish(place: _Place, files: tuple[str, ...]) -> None:
    """Serve FILES until interrupted."""

    async def work(opened: "Gftp") -> None:
        place.show(await opened.do("publish", {"files": list(files)}))
        await asyncio.Event().wait()

    place.run(work, stays=True)


@gftp.command()
@click.argument("urls", nargs=-1, required=True)
@click.pass_obj
def close(place: _Place, urls: tuple[str, ...]) -> None:
    """Stop serving URLS (of this process: useful in `server` mode alone)."""
    place.one_shot("close", {"urls": list(urls)})


@gftp.command()
@click.argument("url")
@click.argument("output_file")
@click.pass_obj
def download(place: _Place, url: str, output_file: str) -> None:
    """Fetch URL into OUTPUT_FILE."""
    place.one_shot("download", {"url": url, "output_file": output_file})


@gftp.command()
@click.argument("output_file")
@click.pass_obj
def receive(place: _Place, output_file: str) -> None:
    """Print a URL, wait for a file to come there, and keep it in OUTPUT_FILE."""
    from shem.gftp.protocol import parse_url

    async def work(opened: "Gftp") -> None:
        result = await opened.do("receive", {"output_file": output_file})
        place.show(result)
        assert isinstance(result, dict)
        await opened.publisher.received(parse_url(str(result["url"])))

    place.run(work, stays=True)


@gftp.command()
@click.argument("url")
@click.argument("file")
@click.pass_obj
def upload(place: _Place, url: str, file: str) -> None:
    """Bring FILE to URL."""
    place.one_shot("upload", {"url": url, "file": file})


@gftp.command()
@click.pass_obj
def shutdown(place: _Place) -> None:
    """Do nothing, as the original does outside of `server` mode."""
    place.show("ok")


@gftp.command()
@click.pass_obj
def server(place: _Place) -> None:
    """Answer JSON-RPC requests on standard input."""

    async def work(opened: "Gftp") -> None:
        from shem.gftp.rpc import LINE_SIZE_MAX, serve
        from shem.kernel.world import World

        reader = asyncio.StreamReader(limit=LINE_SIZE_MAX)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        await serve(opened, reader, _say, World())

    place.run(work, stays=True)


def _say(line: str) -> None:
    sys.stdout.write(line + LINE_END)
    sys.stdout.flush()


def script() -> None:
    """Run as the command `gftp`."""
    main(["gftp", *sys.argv[1:]])
