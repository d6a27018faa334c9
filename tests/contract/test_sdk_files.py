"""Files of this machine at the SDK: a real `gftp server`, a scripted node, a played ExeUnit."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import shem
import shem.sync
from shem.gftp.protocol import FILE_SIZE_MAX, parse_url
from shem.gftp.transport import Transport
from shem.kernel.errors import UsageError
from tests.crash.exeunit_site import until
from tests.gftp_town import Town, town
from tests.rented import HERE, MARKET, WASM, agreement, batch_row, golem, rentable, results
from tests.scripted_node import Answer, Call, ScriptedNode, ok, scripted_node

EXEC = HERE + "/*/exec"
CUT = "Local service error: Transfer error: no answer from the other side"


@dataclass
class Site:
    """A rented activity whose node, bus and ExeUnit the test plays."""

    node: ScriptedNode
    town: Town
    golem: shem.Golem
    activity: shem.Activity
    sent_before: int

    @property
    def sent(self) -> list[list[dict[str, Any]]]:
        """Return the scripts that were sent since the launch."""
        calls = self.node.made("POST", EXEC)[self.sent_before :]
        return [json.loads(call.body["text"]) for call in calls]

    async def nth(self, number: int) -> list[dict[str, Any]]:
        await until(lambda: len(self.sent) > number)
        return self.sent[number]

    def batches_end(self, *outputs: str, fails: bool = False, message: str = CUT) -> None:
        found = results(*outputs, fails=fails)
        if fails:
            found[-1]["message"] = message
        self.node.answer("GET", EXEC + "/*", ok(found))

    def batches_run(self) -> None:
        self.node.answer("GET", EXEC + "/*", ok([]))

    @property
    def transport(self) -> Transport:
        return self.town.transport(patience_s=1.0)


@asynccontextmanager
async def site(directory: Path, **options: Any) -> AsyncIterator[Site]:
    bus = f"unix:{directory / 'bus.sock'}"
    async with scripted_node() as node, town(directory) as there:
        rentable(node)
        async with (
            golem(node, gsb_url=bus, **options) as session,
            session.rent(WASM) as activity,
        ):
            made = Site(node, there, session, activity, node.count("POST", EXEC))
            made.batches_run()
            yield made
            made.batches_end("")


async def fetch(site: Site, url: str, path: Path) -> bytes:
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        size = await site.transport.fetch(
            parse_url(url), file, size_max=FILE_SIZE_MAX, progress=lambda *_: None
        )
        return os.pread(file, size, 0)
    finally:
        os.close(file)


async def bring(site: Site, url: str, path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(file).st_size
        await site.transport.bring(parse_url(url), file, size, progress=lambda *_: None)
    finally:
        os.close(file)


def sides(command: dict[str, Any]) -> tuple[str, str]:
    return command["transfer"]["from"], command["transfer"]["to"]


async def test_an_upload_is_served_with_its_hash_until_it_has_ended(short_dir: Path) -> None:
    local = short_dir / "scene.txt"
    local.write_bytes(os.urandom(100_000))
    digest = hashlib.sha3_256(local.read_bytes()).hexdigest()
    async with site(short_dir) as there:
        moving = asyncio.ensure_future(there.activity.upload(local, "/data/scene"))
        [command] = await there.nth(0)
        source, target = sides(command)
        url = source.removeprefix(f"hash:sha3:{digest}:")
        came = await fetch(there, url, short_dir / "came")
        there.batches_end("")
        await moving

        assert target == "container:/data/scene"
        assert url.endswith("/" + digest) and command["transfer"]["progress"]
        assert came == local.read_bytes()
        with pytest.raises(Exception, match=r"(?i)endpoint|no such|not found|away"):
            await fetch(there, url, short_dir / "again")


async def test_a_download_appears_when_all_of_it_is_there(short_dir: Path) -> None:
    local, origin = short_dir / "result", short_dir / "origin"
    origin.write_bytes(os.urandom(90_000))
    async with site(short_dir) as there:
        moving = asyncio.ensure_future(
            there.activity.download("/data/out", local, format="tar.gz", fileset=("a*", "b"))
        )
        [command] = await there.nth(0)
        source, target = sides(command)
        assert not local.exists()
        await bring(there, target, origin)
        there.batches_end("")
        await moving

        assert source == "container:/data/out"
        assert command["transfer"]["format"] == "tar.gz"
        assert command["transfer"]["fileset"] == ["a*", "b"]
        assert local.read_bytes() == origin.read_bytes()
    assert not [*short_dir.glob(".result*")]  # noqa: ASYNC240 - looked at once


async def test_a_transfer_that_was_cut_is_done_again(short_dir: Path) -> None:
    local = short_dir / "file"
    local.write_bytes(b"x" * 1000)
    async with site(short_dir) as there:
        there.batches_end("", fails=True)
        moving = asyncio.ensure_future(there.activity.upload(local, "/data/file"))
        first = await there.nth(0)
        second = await there.nth(1)
        there.batches_end("")
        await moving

        assert first == second, "the same content has the same URL"
        assert len(there.sent) <= 3


async def test_what_is_cut_again_and_again_is_an_error(short_dir: Path) -> None:
    async with site(short_dir) as there:
        there.batches_end("", fails=True)
        with pytest.raises(shem.CommandFailed, match="Transfer error"):
            await there.activity.download("/data/file", short_dir / "file")
        assert len(there.sent) == 3
        assert not (short_dir / "file").exists()
        assert len({sides(script[0])[1] for script in there.sent}) == 3, "a new place each time"


@pytest.mark.parametrize(
    "message", ["IO error: path not found in container: /x", "the file has 7 bytes; 3 are allowed"]
)
async def test_what_cannot_be_done_is_not_done_again(short_dir: Path, message: str) -> None:
    local = short_dir / "file"
    local.write_bytes(b"x")
    async with site(short_dir) as there:
        there.batches_end("", fails=True, message=message)
        with pytest.raises(shem.CommandFailed, match=r"allowed|not found"):
            await there.activity.upload(local, "/x")
        assert len(there.sent) == 1


async def test_a_transfer_between_others_is_not_repeated_here(short_dir: Path) -> None:
    async with site(short_dir) as there:
        there.batches_end("", fails=True)
        with pytest.raises(shem.CommandFailed, match="Transfer error"):
            await there.activity.transfer("https://example.org/x", "/data/x", format="zip")
        assert [sides(script[0]) for script in there.sent] == [
            ("https://example.org/x", "container:/data/x")
        ]


async def test_an_upload_that_another_program_left_is_taken_up(short_dir: Path) -> None:
    local = short_dir / "file"
    local.write_bytes(b"content")
    async with site(short_dir) as there:
        left = asyncio.ensure_future(there.activity.upload(local, "/data/file"))
        script = await there.nth(0)
        left.cancel()
        await there.golem.session.files.close()
        row = {"batchId": "7" * 32, "state": "accepted", "commands": 1, "script": script}
        there.node.answer("GET", EXEC, ok([row]))
        async with golem(there.node, gsb_url=f"unix:{short_dir / 'bus.sock'}") as other:
            again = await other.attach(there.activity.id)
            moving = asyncio.ensure_future(again.upload(local, "/data/file"))
            polled = HERE + "/*/exec/" + "7" * 32
            await until(lambda: bool(there.node.made("GET", polled)))
            there.batches_end("")
            await moving

        assert len(there.sent) == 1


async def test_two_programs_serve_the_same_content(short_dir: Path) -> None:
    local = short_dir / "file"
    local.write_bytes(b"content")
    async with site(short_dir) as there:
        await there.activity.submit(shem.Upload(local, "/a"))
        async with golem(there.node, gsb_url=f"unix:{short_dir / 'bus.sock'}") as other:
            await (await other.attach(there.activity.id)).submit(shem.Upload(local, "/b"))
            urls = [sides(script[0])[0].rpartition(":gftp")[2] for script in there.sent]
            found = [await fetch(there, "gftp" + url, short_dir / "came") for url in urls]
    assert urls[0] != urls[1] and urls[1].startswith(urls[0] + "-")
    assert found == [b"content"] * 2


async def test_scripts_have_files_between_their_commands(short_dir: Path) -> None:
    (short_dir / "in").write_bytes(b"in")
    script = [
        shem.Upload(short_dir / "in", "/work/in"),
        shem.Run("tool", "in"),
        shem.Download("/work/out", short_dir / "out"),
    ]
    async with site(short_dir) as there:
        batch = await there.activity.submit(script)
        [sent] = there.sent
        assert [next(iter(command)) for command in sent] == ["transfer", "run", "transfer"]
        url = sides(sent[0])[0].rpartition(":gftp")[2]
        assert await fetch(there, "gftp" + url, short_dir / "came") == b"in"
        await bring(there, sides(sent[2])[1], short_dir / "in")
        there.batches_end("", "", "")
        assert len(await batch.wait(check=True)) == 3
        assert (short_dir / "out").read_bytes() == b"in"


async def test_a_script_of_files_under_an_id_of_its_own_is_sent_once(short_dir: Path) -> None:
    async with site(short_dir) as there:
        row = {"batchId": "7" * 32, "state": "accepted", "commands": 1, "script": []}
        there.node.answer("GET", EXEC, ok([row]))
        script = shem.Download("/work/out", short_dir / "out")
        batch = await there.activity.submit(script, batch_id="7" * 32)
        assert batch.id == "7" * 32
        assert there.sent == []


async def test_progress_is_told(short_dir: Path) -> None:
    """Over the stream of events; a node whose stream says nothing is borne."""
    local = short_dir / "file"
    local.write_bytes(b"x")
    told: list[shem.Progress] = []
    async with site(short_dir) as there:
        moving = asyncio.ensure_future(there.activity.upload(local, "/x", progress=told.append))
        await there.nth(0)
        there.batches_end("")
        await moving
        assert told == []


def of_provider(protocols: list[str]) -> Callable[[Call], Answer]:
    made = agreement()
    made["offer"]["properties"]["golem.activity.caps.transfer.protocol"] = protocols
    return lambda _: ok(made)


async def test_a_provider_that_cannot_is_not_asked(short_dir: Path) -> None:
    local = short_dir / "file"
    local.write_bytes(b"x")
    async with site(short_dir) as there:
        there.node.answer("GET", f"{MARKET}/agreements/*", of_provider(["http", "https"]))
        with pytest.raises(shem.NotSupported, match="by gftp: it offers http, https"):
            await there.activity.upload(local, "/x")
        there.node.answer("GET", f"{MARKET}/agreements/*", of_provider([]))
        with pytest.raises(shem.NotSupported, match="by https: it offers no transfers"):
            await there.activity.transfer("hash:sha3:00:https://a/b", "/x")
        assert there.sent == []


@pytest.mark.parametrize(
    "command",
    [
        lambda d: shem.Upload(d / "missing", "/x"),
        lambda d: shem.Upload(d, "/x"),
        lambda d: shem.Download("/x", d),
        lambda d: shem.Download("/x", d / "no" / "such"),
    ],
)
async def test_what_is_not_on_this_machine_is_said_before_anything_is_sent(
    short_dir: Path, command: Callable[[Path], shem.Upload | shem.Download]
) -> None:
    async with site(short_dir) as there:
        with pytest.raises(UsageError, match=r"is not a file|cannot be written"):
            await there.activity.submit(command(short_dir))
        assert there.sent == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: shem.Upload("x", "relative"),
        lambda: shem.Upload("x", "/x", format="rar"),
        lambda: shem.Download("https://a/b", "x"),
        lambda: shem.Transfer("/x", "ftp://a/b"),
        lambda: shem.Transfer("x", "/y"),
        lambda: shem.Transfer("/x", "/y", format="tgz"),
    ],
)
def test_what_is_no_transfer_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        wrong()


async def test_without_the_command_it_is_not_supported(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHEM_GFTP", "/no/such/gftp")
    async with site(short_dir) as there:
        with pytest.raises(shem.NotSupported, match="cannot be started"):
            await there.activity.download("/x", short_dir / "x")
        assert there.sent == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sh -c 'echo no bus here >&2' x", "no bus here"),
        ("sh -c cat x", "receive"),
        ("sh -c 'read x; echo {}; echo [1' x", "does not serve"),
    ],
)
async def test_a_command_that_does_not_serve_is_said(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, command: str, message: str
) -> None:
    monkeypatch.setenv("SHEM_GFTP", command)
    async with site(short_dir) as there:
        with pytest.raises(shem.GolemError, match=message):
            await there.activity.download("/x", short_dir / "x")
        assert there.sent == []


async def test_the_process_ends_with_its_golem_and_is_replaced_when_it_is_killed(
    short_dir: Path,
) -> None:
    local = short_dir / "file"
    local.write_bytes(b"content")

    def servers() -> list[psutil.Process]:
        children = psutil.Process().children(recursive=True)
        return [child for child in children if "gftp" in child.cmdline()]

    async with site(short_dir) as there:
        first = await there.activity.submit(shem.Upload(local, "/a"))
        [server] = servers()
        server.kill()
        second = await there.activity.submit(shem.Upload(local, "/b"))
        assert first.id != second.id and len(servers()) == 1
        url = "gftp" + sides(there.sent[1][0])[0].rpartition(":gftp")[2]
        assert await fetch(there, url, short_dir / "came") == b"content"
    assert servers() == []


async def test_without_async(short_dir: Path) -> None:
    local = short_dir / "file"
    local.write_bytes(b"content")
    async with site(short_dir) as there:
        there.batches_end("")

        def work() -> None:
            with shem.sync.Golem(
                "test",
                api_url=there.node.url,
                app_key="test-key",
                gsb_url=f"unix:{short_dir / 'bus.sock'}",
            ) as session:
                activity = session.attach(there.activity.id)
                activity.upload(local, "/a")
                activity.transfer("/a", "https://example.org/a")
                with pytest.raises(shem.GolemError):
                    activity.download("/a", short_dir / "no" / "such")

        with pytest.raises(UsageError, match="cannot be written"):
            await asyncio.to_thread(work)
        assert len(there.sent) == 2


async def test_an_input_of_a_map_whose_file_did_not_come_is_computed_again(
    short_dir: Path,
) -> None:
    def script(number: int) -> list[shem.Run | shem.Download]:
        return [shem.Run("tool", str(number)), shem.Download("/out", short_dir / f"{number}")]

    bus = f"unix:{short_dir / 'bus.sock'}"
    async with scripted_node() as node, town(short_dir):
        rentable(node)
        node.answer("GET", "/version/get", ok({"current": {"version": "1", "name": "shem 1"}}))
        node.answer("GET", f"{MARKET}/agreements", ok([]))
        accepted = lambda: [call.body["batchId"] for call in node.made("POST", EXEC)]  # noqa: E731
        node.answer("GET", EXEC, lambda _: ok([batch_row(batch) for batch in accepted()]))
        cut = results("computed", "", fails=True)
        cut[0]["message"], cut[1]["message"] = None, CUT
        launched = ok(results("deployed", "started"))
        node.answer("GET", EXEC + "/*", launched, ok(cut), ok(results("computed", "")))
        async with (
            golem(node, gsb_url=bus) as session,
            session.map(
                script, [1], payload=WASM, name="files", state_dir=short_dir / "state"
            ) as mapping,
        ):
            [done] = [done async for done in mapping]

    assert done.ok and [result.stdout for result in done.results] == ["computed", ""]
    assert [again.why for again in mapping.recomputed] == [CUT]
    sent = [json.loads(call.body["text"]) for call in node.made("POST", EXEC)][1:]
    assert len(sent) == 2 and sides(sent[0][1]) != sides(sent[1][1])
