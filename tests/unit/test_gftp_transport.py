"""GFTP both ways, over a way that loses, breaks and lies."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shem.bus.types import Call, GsbError
from shem.gftp import patience as patience_module
from shem.gftp.protocol import (
    CHUNK_SIZE,
    GftpFault,
    GftpUrl,
    chunk,
    ok,
    parse_chunk,
    parse_size,
    parse_span,
    parse_url,
    read_answer,
)
from shem.kernel.errors import ShemError, TimedOut, Unreachable, UsageError
from shem.wire.flexbuffers import dumps, dumps_reply_err, unpack
from tests.gftp_town import NODE, Town, passing_failures, town

SIZES = [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 20 * CHUNK_SIZE + 7]


@pytest.fixture
async def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Town]:
    monkeypatch.setattr(patience_module, "PAUSE_FIRST_S", 0.001)
    monkeypatch.setattr(patience_module, "PAUSE_LAST_S", 0.01)
    async with town(tmp_path) as made:
        yield made


def content(size: int) -> bytes:
    return bytes(number * 7 % 251 for number in range(size))


@contextmanager
def opened(path: Path, data: bytes | None = None) -> Iterator[int]:
    if data is not None:
        path.write_bytes(data)
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        yield file
    finally:
        os.close(file)


class Told:
    """Progress as it was told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int | None]] = []

    def __call__(self, done: int, total: int | None) -> None:
        self.steps.append((done, total))


async def fetch(here: Town, url: GftpUrl, path: Path, *, limit: int = 1 << 30) -> Told:
    told = Told()
    with opened(path) as file:
        await here.transport().fetch(url, file, size_max=limit, progress=told)
    return told


async def bring(here: Town, url: GftpUrl, path: Path, data: bytes) -> Told:
    told = Told()
    with opened(path, data) as file:
        await here.transport().bring(url, file, len(data), progress=told)
    return told


@pytest.mark.parametrize("size", SIZES)
async def test_a_published_file_is_fetched(here: Town, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(content(size))

    url = await here.publisher.publish(source)
    told = await fetch(here, url, tmp_path / "copy")

    assert url == GftpUrl(NODE, hashlib.sha3_256(content(size)).hexdigest())
    assert (tmp_path / "copy").read_bytes() == content(size)
    assert told.steps[0] == (0, size) and told.steps[-1] == (size, size)
    assert [done for done, _ in told.steps] == sorted(done for done, _ in told.steps)


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_is_brought(here: Town, tmp_path: Path, size: int) -> None:
    url = await here.publisher.receive(tmp_path / "arrived")
    assert len(url.name) == 65

    await bring(here, url, tmp_path / "source", content(size))

    assert (tmp_path / "arrived").read_bytes() == content(size)
    await here.publisher.received(url)


@pytest.mark.parametrize("failures", [1, 10, 40])
async def test_failures_that_pass_are_sat_out_both_ways(
    here: Town, tmp_path: Path, failures: int
) -> None:
    data = content(12 * CHUNK_SIZE)
    (tmp_path / "source").write_bytes(data)
    url = await here.publisher.publish(tmp_path / "source")
    slot = await here.publisher.receive(tmp_path / "arrived")

    here.failures = passing_failures(failures)
    await fetch(here, url, tmp_path / "copy")
    here.failures = passing_failures(failures)
    here.lost_replies = 5
    await bring(here, slot, tmp_path / "again", data)

    assert (tmp_path / "copy").read_bytes() == data
    assert (tmp_path / "arrived").read_bytes() == data


async def test_a_cut_costs_only_what_was_under_way(here: Town, tmp_path: Path) -> None:
    data = content(50 * CHUNK_SIZE)
    (tmp_path / "source").write_bytes(data)
    url = await here.publisher.publish(tmp_path / "source")
    fetching = asyncio.create_task(fetch(here, url, tmp_path / "copy"))
    async with asyncio.timeout(10):
        while here.calls.count("GetChunk") < 20:  # noqa: ASYNC110 - progress of another task
            await asyncio.sleep(0)
        here.open.clear()
        while here.calls.count("GetChunk") < 40:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert not fetching.done()

    repeated = here.calls.count("GetChunk")
    here.open.set()
    await fetching

    assert (tmp_path / "copy").read_bytes() == data
    assert here.calls.count("GetChunk") - repeated <= 50 - 20 + 8


async def test_a_lost_answer_to_the_last_word_is_asked_for_again(
    here: Town, tmp_path: Path
) -> None:
    slot = await here.publisher.receive(tmp_path / "arrived")
    here.lost_replies = 1

    await bring(here, slot, tmp_path / "source", b"")  # nothing but UploadFinished

    assert here.calls == ["UploadFinished", "UploadFinished"]
    assert (tmp_path / "arrived").read_bytes() == b""


async def test_silence_that_lasts_is_an_error(here: Town, tmp_path: Path) -> None:
    here.open.clear()
    with opened(tmp_path / "copy") as file, pytest.raises(GsbError, match="broke"):
        await here.transport(0.05).fetch(GftpUrl(NODE, "a" * 64), file, size_max=1, progress=Told())


async def test_what_nobody_serves_is_an_error(here: Town, tmp_path: Path) -> None:
    with opened(tmp_path / "copy") as file, pytest.raises(GsbError, match="not found"):
        await here.transport(0.05).fetch(GftpUrl(NODE, "a" * 64), file, size_max=1, progress=Told())


async def test_a_file_beyond_the_limit_is_not_fetched(here: Town, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"12345")
    url = await here.publisher.publish(tmp_path / "source")

    with pytest.raises(GftpFault, match="5 bytes; 4 are allowed"):
        await fetch(here, url, tmp_path / "copy", limit=4)
    assert here.calls == ["GetMetadata"]


async def test_a_file_that_changes_is_not_served_any_longer(here: Town, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(content(100))
    url = await here.publisher.publish(source)
    os.utime(source, ns=(1, 1))

    with pytest.raises(GftpFault, match="ReadError: the file has changed"):
        await fetch(here, url, tmp_path / "copy")


async def test_a_published_file_may_be_removed(here: Town, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(content(100))
    url = await here.publisher.publish(source)
    source.unlink()

    await fetch(here, url, tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == content(100)


async def test_what_is_closed_is_gone(here: Town, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    url = await here.publisher.publish(tmp_path / "source")
    slot = await here.publisher.receive(tmp_path / "never")

    assert await here.publisher.close(str(url))
    assert not await here.publisher.close(str(url))
    assert not await here.publisher.close("nonsense")
    assert await here.publisher.close(str(slot))

    assert not (tmp_path / "never").exists()
    assert sorted(entry.name for entry in os.scandir(tmp_path)) == ["bus.sock", "source"]


async def test_an_unfinished_upload_leaves_no_file(here: Town, tmp_path: Path) -> None:
    slot = await here.publisher.receive(tmp_path / "never")
    call = slot.address("UploadChunk")
    await here.client.call(call, dumps({"chunk": chunk(0, b"half")}), timeout_s=5)

    await here.publisher.close_all()

    assert not (tmp_path / "never").exists()


async def test_an_upload_with_a_wrong_hash_is_refused_and_can_be_mended(
    here: Town, tmp_path: Path
) -> None:
    slot = await here.publisher.receive(tmp_path / "arrived")

    async def say(method: str, body: object) -> object:
        return unpack(await here.client.call(slot.address(method), dumps(body), timeout_s=5))

    await say("UploadChunk", {"chunk": chunk(0, b"bad")})
    digest = hashlib.sha3_256(b"good").hexdigest()
    assert await say("UploadFinished", {"hash": digest}) == {"Err": "IntegrityError"}
    await say("UploadChunk", {"chunk": chunk(0, b"good")})
    assert await say("UploadFinished", {"hash": digest}) == {"Ok": None}

    assert (tmp_path / "arrived").read_bytes() == b"good"
    assert await say("UploadFinished", {"hash": None}) == {"Ok": None}
    assert await say("UploadFinished", {"hash": "0" * 64}) == {"Err": "IntegrityError"}
    late = await say("UploadChunk", {"chunk": chunk(0, b"x")})
    assert late == {"Err": {"WriteError": "this upload is finished"}}


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("GetChunk", None),
        ("GetChunk", {"offset": 0}),
        ("GetChunk", {"offset": -1, "size": 1}),
        ("GetChunk", {"offset": 0, "size": 1 << 21}),
        ("GetChunk", {"offset": 4, "size": 2}),
        ("GetChunk", {"offset": 1 << 50, "size": 2}),
        ("GetChunk", {"offset": 0, "size": True}),
    ],
)
async def test_impossible_questions_are_refused(
    here: Town, tmp_path: Path, method: str, body: object
) -> None:
    (tmp_path / "source").write_bytes(b"12345")
    url = await here.publisher.publish(tmp_path / "source")

    answer = unpack(await here.client.call(url.address(method), dumps(body), timeout_s=5))

    assert isinstance(answer, dict) and list(answer) == ["Err"]
    with pytest.raises(GsbError, match="not found"):
        await here.client.call(url.address("UploadChunk"), dumps(body), timeout_s=5)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"chunk": None},
        {"chunk": {"offset": 0}},
        {"chunk": {"offset": 0, "content": "text"}},
        {"chunk": {"offset": 1 << 41, "content": [1]}},
    ],
)
async def test_impossible_chunks_are_refused(here: Town, tmp_path: Path, body: object) -> None:
    slot = await here.publisher.receive(tmp_path / "arrived")

    answer = unpack(await here.client.call(slot.address("UploadChunk"), dumps(body), timeout_s=5))

    assert isinstance(answer, dict) and list(answer) == ["Err"]


LIES = {
    "wrong offset": {"Ok": chunk(1, b"12345")},
    "short": {"Ok": chunk(0, b"1234")},
    "long": {"Ok": chunk(0, b"123456")},
    "no map": {"Ok": 5},
    "neither": {"Maybe": 1},
    "refused": {"Err": {"ReadError": "disk on fire"}},
    "other content": {"Ok": chunk(0, b"54321")},
}


@pytest.mark.parametrize("name", list(LIES))
async def test_a_publisher_that_lies_is_found_out(here: Town, tmp_path: Path, name: str) -> None:
    liar = GftpUrl(NODE, hashlib.sha3_256(b"12345").hexdigest())

    async def lie(call: Call) -> bytes:
        if call.address.endswith("GetMetadata"):
            return ok({"fileSize": 5})
        return dumps(LIES[name])

    here.bus.bind(f"/public/gftp/{liar.name}", lie)

    with pytest.raises(ShemError) as found:
        await fetch(here, liar, tmp_path / "copy")

    assert isinstance(found.value, GftpFault)


async def test_chunks_as_numbers_are_taken_too(here: Town, tmp_path: Path) -> None:
    url = GftpUrl(NODE, "some-other-name")

    async def serve(call: Call) -> bytes:
        if call.address.endswith("GetMetadata"):
            return dumps({"Ok": {"fileSize": 3}})
        return dumps({"Ok": {"offset": 0, "content": [1, 2, 3]}})

    here.bus.bind(f"/public/gftp/{url.name}", serve)
    await fetch(here, url, tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == b"\1\2\3"


@pytest.mark.parametrize(
    "text",
    [
        *("", "gftp://", f"gftp://{NODE}", f"gftp://{NODE}/", "gftp://0x12/abc"),
        *(f"http://{NODE}/abc", f"gftp://{NODE}/a/b", f"gftp://{NODE}/../x"),
        f"gftp://{NODE}/{'a' * 129}",
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_url(text)


def test_the_recorded_messages_are_read() -> None:
    size = "4f6b0066696c6553697a6500010a0000030000000100000001000000009001000601220101010a26022401"
    span = "6f66667365740073697a6500020d07000300000001000000020000000000000000a0000006060a2601"
    hello = (
        "4f6b006f666673657400636f6e74656e74000568656c6c6f020f170201020b00640401230101010924022401"
    )

    assert parse_size(read_answer(bytes.fromhex(size))) == 102_400
    asked = parse_span(unpack(bytes.fromhex(span)))
    assert (asked.offset, asked.size) == (0, CHUNK_SIZE)
    assert parse_chunk(read_answer(bytes.fromhex(hello))) == (0, b"hello")
    assert unpack(ok(chunk(0, b"hello"))) == unpack(bytes.fromhex(hello))
    with pytest.raises(GftpFault, match="IntegrityError"):
        read_answer(dumps_reply_err("IntegrityError"))
    with pytest.raises(GftpFault, match="cannot be read"):
        read_answer(b"\x00")


def test_passing_errors_are_what_a_cut_looks_like() -> None:
    assert {Unreachable, TimedOut, GsbError} == set(patience_module.PASSING)


@pytest.mark.parametrize(
    ("name", "is_hash"),
    [
        ("0" * 64, True),
        ("0" * 64 + "-Ab1", True),
        ("0" * 64 + "-", False),
        ("0" * 63, False),
        ("0" * 65, False),
        ("0" * 64 + "-a_b", False),
        ("G" * 64, False),
    ],
)
def test_a_name_begins_with_a_hash_or_is_none(name: str, is_hash: bool) -> None:
    url = parse_url(f"gftp://0x{'ab' * 20}/{name}")
    assert url.digest == (bytes(32) if is_hash else None)
