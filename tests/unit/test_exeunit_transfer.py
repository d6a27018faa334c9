"""Transfers from end to end: a real web server, a real bus, and volumes that a program laid out."""

import asyncio
import hashlib
import os
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shem.exeunit.commands import FileSet, Format, TransferSpec
from shem.exeunit.runtimes.base import RuntimeFault, Volume
from shem.exeunit.transfer import mover as mover_module
from shem.exeunit.transfer.location import Scheme, parse_location
from shem.exeunit.transfer.mover import Mover
from shem.exeunit.transfer.service import DIRECTORY_NAME, Transfers, clear_staging
from shem.gftp import patience as patience_module
from tests.gftp_town import Town, town

DATA = bytes(number * 11 % 253 for number in range(700_000))
HASH = hashlib.sha3_256(DATA).hexdigest()


@dataclass
class Web:
    """A web server that can be told to fail."""

    server: TestServer
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Methods and ranges, as they came."""
    statuses: list[int] = field(default_factory=list)
    """What the next GETs and PUTs answer instead."""
    cut_after: list[int] = field(default_factory=list)
    """After how many bytes the next GETs break off."""
    tag: str | None = '"one"'
    changed: bytes | None = None
    """What the file is from the first resumption on."""
    stalled: asyncio.Event | None = None
    """Set when a GET has sent a part and will send no more."""

    def url(self, name: str) -> str:
        return str(self.server.make_url(f"/{name}"))

    async def get(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.headers.get("Range")))
        if request.method == "GET" and self.statuses:
            return web.Response(status=self.statuses.pop(0), body=b"an error page")
        asked = request.headers.get("Range")
        if asked is not None and self.changed is not None:
            self.files[request.match_info["name"]], self.tag = self.changed, '"two"'
        data = self.files.get(request.match_info["name"])
        if data is None:
            return web.Response(status=404)
        status, start = 200, 0
        if asked is not None and request.headers.get("If-Range") == self.tag:
            status, start = 206, int(asked.removeprefix("bytes=").removesuffix("-"))
        response = web.StreamResponse(status=status)
        response.content_length = len(data) - start
        if self.tag is not None:
            response.headers["ETag"] = self.tag
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        body = data[start:]
        if self.stalled is not None:
            await response.write(body[:100_000])
            self.stalled.set()
            await asyncio.sleep(60)
        if self.cut_after:
            await response.write(body[: self.cut_after.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(body)
        return response

    async def put(self, request: web.Request) -> web.Response:
        self.requests.append(("PUT", None))
        data = await request.read()
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        self.files[request.match_info["name"]] = data
        return web.Response(status=201)


@asynccontextmanager
async def web_server() -> AsyncIterator[Web]:
    application = web.Application(client_max_size=1 << 30)
    server = TestServer(application)
    made = Web(server)
    application.router.add_get("/{name}", made.get)
    application.router.add_put("/{name}", made.put)

    async def away(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"/{request.match_info['name']}")

    application.router.add_get("/away/{name}", away)
    application.router.add_get("/round/{name}", round_and_round)
    await server.start_server()
    try:
        yield made
    finally:
        await server.close()


async def round_and_round(request: web.Request) -> web.Response:
    raise web.HTTPFound(request.path)


@dataclass
class Place:
    """An activity with two volumes, one inside the other's path, and what it told."""

    work_dir: Path
    transfers: Transfers
    web: Web
    town: Town
    steps: list[tuple[int, int | None]] = field(default_factory=list)
    space: int | None = None

    @property
    def volumes(self) -> list[Volume]:
        return [Volume("/in", self.work_dir / "v1"), Volume("/in/deep", self.work_dir / "v2")]

    async def move(self, source: str, target: str, **options: Any) -> None:
        self.steps.clear()
        spec = TransferSpec(source, target, **options)

        def told(done: int, total: int | None) -> None:
            self.steps.append((done, total))

        await self.transfers.perform(spec, self.volumes, told)

    def staged(self) -> list[str]:
        directory = self.work_dir / DIRECTORY_NAME
        return [path.name for path in directory.iterdir()] if directory.exists() else []


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setenv("SHEM_PRIVATE_TRANSFERS", "yes")
    monkeypatch.setattr(mover_module, "RETRY_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(patience_module, "PAUSE_FIRST_S", 0.001)
    monkeypatch.setattr(patience_module, "PATIENCE_S", 2.0)
    work_dir = tmp_path / "work"
    for name in ("v1", "v2"):
        (work_dir / name).mkdir(parents=True)
    async with web_server() as server, town(tmp_path) as made:
        mover = Mover(made.client, made.world)
        transfers = Transfers(work_dir, mover, made.world.rng, lambda: found.space)
        found = Place(work_dir, transfers, server, made)
        yield found
        assert found.staged() == []


async def test_a_file_comes_from_the_web(place: Place) -> None:
    place.web.files["a"] = DATA

    await place.move(place.web.url("a"), "container:/in/sub/file")

    assert (place.work_dir / "v1/sub/file").read_bytes() == DATA
    assert place.steps[-1] == (len(DATA), len(DATA))
    assert place.web.requests == [("HEAD", None), ("GET", None)]


async def test_a_file_goes_to_the_web(place: Place) -> None:
    (place.work_dir / "v2/file").write_bytes(DATA)

    await place.move("/in/deep/file", place.web.url("b"))

    assert place.web.files["b"] == DATA
    assert place.steps[-1] == (len(DATA), len(DATA))


async def test_files_come_and_go_over_gftp(place: Place, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    url = await place.town.publisher.publish(tmp_path / "source")
    slot = await place.town.publisher.receive(tmp_path / "back")

    await place.move(str(url), "container:/in/file")
    await place.move("container:/in/file", str(slot))

    assert (tmp_path / "back").read_bytes() == DATA
    assert place.steps[-1] == (len(DATA), len(DATA))


async def test_files_move_inside_and_from_net_to_net(place: Place, tmp_path: Path) -> None:
    place.web.files["a"] = DATA
    slot = await place.town.publisher.receive(tmp_path / "back")

    await place.move(place.web.url("a"), str(slot))
    await place.move(place.web.url("a"), "container:/in/x")
    await place.move("container:/in/x", "container:/in/deep/y")

    assert (tmp_path / "back").read_bytes() == DATA
    assert (place.work_dir / "v2/y").read_bytes() == DATA


@pytest.mark.parametrize("kind", list(Format))
async def test_a_directory_goes_out_packed_and_comes_in_unpacked(
    place: Place, kind: Format
) -> None:
    for name in ("a.txt", "d/b.txt", "d/e/c.c"):
        path = place.work_dir / "v1" / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    filesets = (FileSet(("**/*.txt",)),)

    await place.move("/in/out", place.web.url("p"), format=kind, depth=1, filesets=filesets)
    await place.move(place.web.url("p"), "/in/deep/back/again", format=kind)

    back = place.work_dir / "v2/back/again"
    assert {str(path.relative_to(back)) for path in back.rglob("*") if path.is_file()} == {
        "a.txt",
        "d/b.txt",
    }


# ---- the web in bad shape ------------------------------------------------------------------------


async def test_a_download_that_is_cut_goes_on_where_it_was(place: Place) -> None:
    place.web.files["a"] = DATA
    place.web.cut_after = [200_000, 1, 100_000, 50_000, 50_000]

    await place.move(f"hash:sha3:{HASH}:{place.web.url('a')}", "/in/a")

    assert (place.work_dir / "v1/a").read_bytes() == DATA
    ranges = [asked for method, asked in place.web.requests if method == "GET"]
    starts = [0 if asked is None else int(asked.removeprefix("bytes=")[:-1]) for asked in ranges]
    assert len(starts) == 6, "one request for each cut, and the last"
    assert starts == sorted(starts), "nothing that arrived is fetched again"
    # A cut may take the last bytes that were sent with it, never more than were sent.
    assert all(0 < start <= 400_001 for start in starts[2:])


async def test_a_file_that_changed_meanwhile_is_fetched_anew(place: Place) -> None:
    place.web.files["a"] = b"old" * 100_000
    place.web.cut_after = [100_000]
    place.web.changed = DATA

    await place.move(place.web.url("a"), "/in/a")

    assert (place.work_dir / "v1/a").read_bytes() == DATA


async def test_a_server_that_cannot_resume_is_asked_for_everything_again(place: Place) -> None:
    place.web.files["a"] = DATA
    place.web.tag = None
    place.web.cut_after = [300_000]

    await place.move(place.web.url("a"), "/in/a")

    assert (place.work_dir / "v1/a").read_bytes() == DATA
    assert [asked for method, asked in place.web.requests if method == "GET"] == [None, None]


async def test_three_failures_in_a_row_are_the_end(place: Place) -> None:
    place.web.files["a"] = DATA
    place.web.statuses = [500, 503, 502, 200]

    with pytest.raises(RuntimeFault, match="the server answers 502"):
        await place.move(place.web.url("a"), "/in/a")

    assert not (place.work_dir / "v1/a").exists()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_an_error_page_is_no_file_and_is_not_asked_for_twice(
    place: Place, status: int
) -> None:
    place.web.files["a"] = DATA
    place.web.statuses = [status]

    with pytest.raises(RuntimeFault, match=f"answers {status}"):
        await place.move(place.web.url("a"), "/in/a")

    assert [method for method, _ in place.web.requests].count("GET") == 1


async def test_an_upload_is_tried_again_and_refusals_are_told(place: Place) -> None:
    (place.work_dir / "v1/a").write_bytes(DATA)
    place.web.statuses = [503, 500]
    await place.move("/in/a", place.web.url("b"))
    assert place.web.files["b"] == DATA

    place.web.statuses = [403]
    with pytest.raises(RuntimeFault, match="answers 403"):
        await place.move("/in/a", place.web.url("c"))
    assert "c" not in place.web.files


async def test_redirects_are_followed_but_not_for_ever(place: Place) -> None:
    place.web.files["a"] = DATA

    await place.move(place.web.url("away/a"), "/in/a")

    assert (place.work_dir / "v1/a").read_bytes() == DATA
    with pytest.raises(RuntimeFault, match="TooManyRedirects"):
        await place.move(place.web.url("round/a"), "/in/b")


async def test_nobody_there_is_an_error(place: Place) -> None:
    url = place.web.url("a")
    await place.web.server.close()

    with pytest.raises(RuntimeFault, match="Transfer error"):
        await place.move(url, "/in/a")


async def test_more_than_there_is_space_for_is_not_fetched(place: Place, tmp_path: Path) -> None:
    place.web.files["a"] = DATA
    (tmp_path / "source").write_bytes(DATA)
    url = await place.town.publisher.publish(tmp_path / "source")
    place.space = len(DATA) - 1

    for source in (place.web.url("a"), str(url)):
        with pytest.raises(RuntimeFault, match="allowed"):
            await place.move(source, "/in/a")
    place.space = -5
    with pytest.raises(RuntimeFault, match="allowed"):
        await place.move(place.web.url("a"), "/in/a")


# ---- hashes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha3_224", "sha3_256", "sha3_384", "sha3_512"])
async def test_what_has_the_right_hash_arrives(place: Place, algorithm: str) -> None:
    place.web.files["a"] = DATA
    digest = hashlib.new(algorithm, DATA).hexdigest()

    await place.move(f"hash://SHA3:0x{digest.upper()}:{place.web.url('a')}", "/in/a")

    assert (place.work_dir / "v1/a").read_bytes() == DATA


async def test_what_has_another_hash_does_not(place: Place) -> None:
    place.web.files["a"] = DATA + b"!"
    (place.work_dir / "v1/there").write_bytes(b"before")

    with pytest.raises(RuntimeFault, match="Incorrect hash"):
        await place.move(f"hash:sha3:{HASH}:{place.web.url('a')}", "/in/there")
    with pytest.raises(RuntimeFault, match="Incorrect hash"):
        await place.move(f"hash:sha3:{HASH}:container:/in/there", place.web.url("b"))

    assert (place.work_dir / "v1/there").read_bytes() == b"before"
    assert "b" not in place.web.files


# ---- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "/", "/in/../etc/passwd", "/in/deep/../../../etc/passwd", "/inner/x"),
        *("in/x", "//in/x", "/in//x", "", "/in/x\0y", "//host/in/x", "/in/" + "d/" * 300),
    ],
)
async def test_paths_that_are_in_no_volume_are_refused(place: Place, path: str) -> None:
    place.web.files["a"] = DATA
    before = sorted(str(p) for p in place.work_dir.rglob("*") if DIRECTORY_NAME not in str(p))

    for target in (f"container:{path}", path):
        with pytest.raises(RuntimeFault, match="not found in container"):
            await place.move(place.web.url("a"), target)
        with pytest.raises(RuntimeFault, match="not found in container"):
            await place.move(target, place.web.url("b"))

    after = sorted(str(p) for p in place.work_dir.rglob("*") if DIRECTORY_NAME not in str(p))
    assert after == before


async def test_links_that_a_program_laid_are_not_followed(place: Place, tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "secret").write_text("secret")
    volume = place.work_dir / "v1"
    (volume / "file").symlink_to(host / "secret")
    (volume / "dir").symlink_to(host)
    (volume / "up").symlink_to("../..")
    place.web.files["a"] = DATA

    for path in ("file", "dir/secret", "up/host/secret"):
        with pytest.raises(RuntimeFault, match="IO error"):
            await place.move(f"/in/{path}", place.web.url("out"))
    for path in ("dir/new", "up/new"):
        with pytest.raises(RuntimeFault, match="IO error"):
            await place.move(place.web.url("a"), f"/in/{path}")
    for path in ("dir", "up"):
        with pytest.raises(RuntimeFault, match="IO error"):
            await place.move(f"/in/{path}", place.web.url("out"), format=Format.TAR)
    await place.move(place.web.url("a"), "/in/file")  # the link is replaced

    assert (host / "secret").read_text() == "secret"
    assert [entry.name for entry in os.scandir(host)] == ["secret"]
    assert "out" not in place.web.files
    assert not (volume / "file").is_symlink()


async def test_a_link_that_is_packed_stays_a_link(place: Place, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret of the host")
    (place.work_dir / "v1/link").symlink_to(tmp_path / "secret")

    await place.move("/in", place.web.url("out"), format=Format.TAR)

    (tmp_path / "out.tar").write_bytes(place.web.files["out"])
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert [(member.name, member.issym()) for member in tar] == [("link", True)]
    assert b"secret of the host" not in place.web.files["out"]


async def test_pipes_and_directories_are_no_files(place: Place) -> None:
    os.mkfifo(place.work_dir / "v1/pipe")
    (place.work_dir / "v1/dir").mkdir()
    place.web.files["a"] = DATA

    async with asyncio.timeout(10):
        with pytest.raises(RuntimeFault, match="not a plain file"):
            await place.move("/in/pipe", place.web.url("out"))
        with pytest.raises(RuntimeFault, match="needs a format"):
            await place.move("/in/dir", place.web.url("out"))
        with pytest.raises(RuntimeFault, match="needs a name"):
            await place.move(place.web.url("a"), "/in/dir")
        with pytest.raises(RuntimeFault, match="needs a name"):
            await place.move(place.web.url("a"), "/in/deep")
        with pytest.raises(RuntimeFault, match="No such file"):
            await place.move("/in/none", place.web.url("out"))
        with pytest.raises(RuntimeFault, match="No such file"):
            await place.move("/in/none", place.web.url("out"), format=Format.TAR)


@pytest.mark.parametrize(
    ("source", "target", "options", "message"),
    [
        ("file:///etc/passwd", "/in/x", {}, "file: are not allowed"),
        ("/in/x", "file:///tmp/x", {}, "file: are not allowed"),
        ("ftp://host/x", "/in/x", {}, "ftp: are not supported"),
        ("http://[", "/in/x", {}, "not a URL"),
        ("http://", "/in/x", {}, "Transfer error"),
        ("gftp://nobody/x", "/in/x", {}, "is not gftp://"),
        ("hash:md5:00:http://h/x", "/in/x", {}, "not SHA-3"),
        ("http://h/x", "http://h/y", {"format": Format.TAR}, "exactly one side"),
        ("/in/x", "/in/y", {"format": Format.TAR}, "exactly one side"),
    ],
)
async def test_impossible_transfers_are_refused(
    place: Place, source: str, target: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeFault, match=message):
        await place.move(source, target, **options)


# ---- being cut short -----------------------------------------------------------------------------


async def test_a_transfer_that_is_stopped_leaves_nothing(place: Place) -> None:
    place.web.files["a"] = DATA
    place.web.stalled = asyncio.Event()
    moving = asyncio.create_task(place.move(place.web.url("a"), "/in/a"))
    await asyncio.wait_for(place.web.stalled.wait(), 10)

    moving.cancel()
    await asyncio.wait([moving])

    assert moving.cancelled()
    assert not (place.work_dir / "v1/a").exists()


async def test_packing_that_is_stopped_ends_before_the_transfer_does(place: Place) -> None:
    for number in range(3_000):
        (place.work_dir / f"v1/{number}").write_bytes(b"x" * 1_000)
    moving = asyncio.create_task(place.move("/in", place.web.url("a"), format=Format.TAR_XZ))
    async with asyncio.timeout(10):
        while not place.staged():  # noqa: ASYNC110 - a file appears, nobody tells
            await asyncio.sleep(0.001)

    moving.cancel()
    await asyncio.wait([moving])

    assert moving.cancelled()
    assert "a" not in place.web.files


async def test_what_a_killed_process_left_is_cleared(place: Place) -> None:
    directory = place.work_dir / DIRECTORY_NAME
    directory.mkdir(exist_ok=True)
    (directory / "left").write_bytes(DATA)

    clear_staging(place.work_dir)

    assert not directory.exists()


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("container:/in/a", "/in/a"),
        ("CONTAINER:/in/a", "/in/a"),
        ("container:///in/a", "/in/a"),
        ("/in/a b%20c", "/in/a b%20c"),
        ("/in/a:b", "/in/a:b"),
    ],
)
def test_container_urls(text: str, inside: str) -> None:
    location = parse_location(text, Scheme.CONTAINER)

    assert (location.scheme, location.inside) == (Scheme.CONTAINER, inside)
