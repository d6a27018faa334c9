"""Task packages: only what the operator allows, only what has the right hash."""

import hashlib
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shem.exeunit import image as image_module
from shem.exeunit.image import Images, cache_name, parse_task_package
from shem.exeunit.runtimes.base import RuntimeFault
from shem.exeunit.transfer import mover as mover_module
from shem.exeunit.transfer import web as web_module
from shem.exeunit.transfer.mover import Mover
from shem.kernel.errors import Unreachable
from shem.kernel.world import SeededRng, World

DATA = b"an image" * 1000
HASH = hashlib.sha3_224(DATA).hexdigest()


@pytest.mark.parametrize("prefix", ["hash:sha3:", "hash://sha3:", "HASH:SHA3:0x"])
def test_hash_prefixes(prefix: str) -> None:
    source = parse_task_package(f"{prefix}{HASH}:http://host/dir/a.b.zip")

    assert source.digest is not None and source.digest.hex() == HASH
    assert source.url == "http://host/dir/a.b.zip"
    assert cache_name(source) == f"a_{HASH}.b.zip"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://host/image", "Missing hash"),
        ("", "Missing hash"),
        (f"hash:md5:{HASH}:http://host/x", "not SHA-3"),
        (f"hash:sha3:{HASH[:-2]}:http://host/x", "not SHA-3"),
        (f"hash:sha3:{HASH}:ftp://host/abc", "ftp: are not supported"),
        (f"hash:sha3:{HASH}:container:/x", "cannot come from inside"),
        (f"hash:sha3:{HASH}:http://[", "not a URL"),
    ],
)
def test_unusable_task_packages(text: str, message: str) -> None:
    with pytest.raises(RuntimeFault, match=message):
        parse_task_package(text)


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let images come from this machine, and let retries not wait."""
    monkeypatch.setenv("SHEM_PRIVATE_TRANSFERS", "yes")
    monkeypatch.setattr(mover_module, "RETRY_PAUSES_S", (0.0, 0.0))


class NoBus:
    """A bus without a node."""

    async def call(self, address: str, data: bytes, *, timeout_s: float) -> bytes:
        del data, timeout_s
        raise Unreachable(f"no node here for {address}")


def nobody(done: int, total: int | None) -> None:
    """Hear of progress that nobody asked for."""


async def fetch(url: str, cache: Path, *allowed: Path, digest: str = HASH) -> Path:
    source = parse_task_package(f"hash:sha3:{digest}:{url}")
    images = Images(cache, Mover(NoBus(), World()), SeededRng(7), allowed)
    return (await images.fetch(source, nobody))[0]


async def test_allowed_file_is_copied_to_the_cache(tmp_path: Path) -> None:
    original = tmp_path / "images" / "a.zip"
    original.parent.mkdir()
    original.write_bytes(DATA)

    kept = await fetch(original.as_uri(), tmp_path / "cache", original.parent)
    original.unlink()

    assert kept.read_bytes() == DATA
    assert await fetch(original.as_uri(), tmp_path / "cache") == kept
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []


async def test_file_outside_the_allowed_directories_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(DATA)
    allowed = tmp_path / "images"
    allowed.mkdir()
    (allowed / "link").symlink_to(secret)

    for path in ("secret", "images/link", "images/../secret"):
        with pytest.raises(RuntimeFault, match="SHEM_IMAGE_DIRS"):
            await fetch(f"file://{tmp_path}/{path}", tmp_path / "cache", allowed)
    with pytest.raises(RuntimeFault, match="SHEM_IMAGE_DIRS"):
        await fetch(f"file://{secret}", tmp_path / "cache")


async def test_wrong_content_is_refused_and_not_kept(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"something else")

    with pytest.raises(RuntimeFault, match="Incorrect hash"):
        await fetch((tmp_path / "a.zip").as_uri(), tmp_path / "cache", tmp_path)

    assert [path.name for path in (tmp_path / "cache").rglob("*")] == ["tmp"]


async def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFault, match="does not exist"):
        await fetch((tmp_path / "a.zip").as_uri(), tmp_path / "cache", tmp_path)


async def serve(handler: object) -> TestServer:
    application = web.Application()
    application.router.add_get("/a.zip", handler)  # type: ignore[arg-type]
    server = TestServer(application)
    await server.start_server()
    return server


async def test_download_over_http(tmp_path: Path) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=DATA)

    server = await serve(handler)
    try:
        kept = await fetch(str(server.make_url("/a.zip")), tmp_path)
        assert kept.read_bytes() == DATA
        with pytest.raises(RuntimeFault, match="the server answers 404"):
            await fetch(str(server.make_url("/other")), tmp_path, digest="00" * 28)
    finally:
        await server.close()


async def test_download_is_tried_again_after_a_server_error(
    tmp_path: Path,
) -> None:
    answers = iter([500, 503, 200])

    async def handler(request: web.Request) -> web.Response:
        status = next(answers) if request.method == "GET" else 500
        return web.Response(body=DATA, status=status)

    server = await serve(handler)
    try:
        kept = await fetch(str(server.make_url("/a.zip")), tmp_path)
    finally:
        await server.close()

    assert kept.read_bytes() == DATA


async def test_image_that_is_too_large_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_module, "IMAGE_SIZE_MAX", 100)
    (tmp_path / "a.zip").write_bytes(DATA)

    with pytest.raises(RuntimeFault, match="larger than 100"):
        await fetch((tmp_path / "a.zip").as_uri(), tmp_path / "cache", tmp_path)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.1.2.3", "[::1]", "169.254.169.254"])
async def test_an_image_from_the_providers_own_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.delenv("SHEM_PRIVATE_TRANSFERS")

    with pytest.raises(RuntimeFault, match="is not on the internet"):
        await fetch(f"http://{host}:9/a.zip", tmp_path)


async def test_a_redirect_into_the_providers_own_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address counts as the internet here, the one that it leads to does not."""
    public = web_module.require_public

    async def handler(_: web.Request) -> web.Response:
        raise web.HTTPFound(f"http://127.0.0.2:{server.port}/a.zip")

    server = await serve(handler)
    monkeypatch.delenv("SHEM_PRIVATE_TRANSFERS")
    monkeypatch.setattr(
        web_module, "require_public", lambda host: host == "127.0.0.1" or public(host)
    )
    try:
        with pytest.raises(RuntimeFault, match=r"127\.0\.0\.2 is not on the internet"):
            await fetch(f"http://127.0.0.1:{server.port}/a.zip", tmp_path)
    finally:
        await server.close()
