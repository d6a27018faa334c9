"""`shem.sync`: the same names as the SDK, and every call waits."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shem
import shem.sync
from shem.kernel.errors import UsageError
from tests.rented import ACTIVITY_ID, HERE, MARKET, WASM, batch_row, rentable, results
from tests.scripted_node import APP_KEY, ScriptedNode, ok, scripted_node

OWN = ["Activity", "Agreement", "Batch", "BatchInfo", "Golem", "Mapping", "Running", "Service"]


INNER = {"gone_or"}
"""Methods between the parts of the SDK."""
ATTRIBUTES = {"detached", "report", "resumed"}
"""Attributes of the handle there, properties here."""


def golem(url: str, **options: Any) -> shem.sync.Golem:
    return shem.sync.Golem(
        "test", api_url=url, app_key=APP_KEY, subnet="s", patience=5.0, **options
    )


async def plainly(node: ScriptedNode, program: Callable[[str], Any]) -> Any:
    """Run a program without async beside the scripted node."""
    return await asyncio.to_thread(program, node.url)


def test_all_names_are_the_same() -> None:
    assert sorted(shem.sync.__all__) == sorted(shem.__all__)
    for name in shem.__all__:
        same = getattr(shem.sync, name) is getattr(shem, name)
        assert same is (name not in OWN), name


@pytest.mark.parametrize("name", [name for name in OWN if name != "BatchInfo"])
def test_every_class_has_the_same_methods_and_arguments(name: str) -> None:
    here, there = getattr(shem.sync, name), getattr(shem, name)
    assert public(there) - public(here) <= INNER
    assert public(here) - public(there) <= ATTRIBUTES
    for method in public(there) - INNER:
        if callable(getattr(there, method)):
            wanted = inspect.signature(getattr(there, method)).parameters
            assert list(inspect.signature(getattr(here, method)).parameters) == list(wanted), method


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


async def test_rent_run_detach_attach() -> None:
    def program(url: str) -> None:
        with golem(url) as session, session.rent(WASM) as activity:
            assert activity.run("tool", "x").stdout == "started"
            assert activity.state().current == "Ready"
            assert activity.report.alive and not activity.detached
            batch = activity.submit([shem.sync.Run("tool")])
            assert [result.index for result in batch.results()] == [0, 1]
            assert len(batch.wait()) == len(batch.so_far()) == 2
            ticket = activity.detach()
        with golem(url) as session:
            attached = session.attach(ticket)
            assert attached.id == ACTIVITY_ID and attached.report.state == "Ready"
            assert [info.batch.id for info in attached.batches()] == ["1" * 32]
            assert attached.agreement.ended() is None
            assert attached.absence().limited_by == "agreement-expiration"
            attached.agreement.terminate("done")

    async with scripted_node() as node:
        rentable(node).answer("GET", HERE + "/*/exec", ok([batch_row("1" * 32)]))
        await plainly(node, program)

    assert node.count("DELETE", HERE + "/*") == 0
    assert node.count("POST", f"{MARKET}/agreements/*/terminate") == 1


async def test_what_was_rented_ends_with_its_block() -> None:
    def program(url: str) -> None:
        with golem(url) as session, session.rent(WASM):
            pass

    async with scripted_node() as node:
        rentable(node)
        await plainly(node, program)
    assert node.count("POST", f"{MARKET}/agreements/*/terminate") == 1


async def test_errors_are_the_sdks_own() -> None:
    def program(url: str) -> None:
        with (
            golem(url) as session,
            session.rent(WASM, on_exit="detach") as activity,
            pytest.raises(shem.CommandFailed),
        ):
            activity.run("tool", check=True)

    async with scripted_node() as node:
        rentable(node)
        good, bad = ok(results("deployed", "started")), ok(results("", fails=True))
        node.answer("GET", HERE + "/*/exec/*", good, bad)
        await plainly(node, program)


async def test_a_map_without_async(tmp_path: Path) -> None:
    def program(url: str) -> None:
        with golem(url) as session:
            options: dict[str, Any] = {"payload": WASM, "name": "m", "state_dir": tmp_path}
            mapping = session.map(lambda n: shem.Run("tool", str(n)), range(3), **options)
            with mapping:
                found = [done.input for done in mapping]
                assert mapping.recomputed == ()
            assert found == [0, 1, 2]
            again = session.map(lambda n: shem.Run("tool", str(n)), range(3), **options).all()
            assert [done.kept for done in again] == [True] * 3

    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        await plainly(node, program)


class Plain(shem.sync.Service):
    """A service of plain generators; its steps run in threads."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.threads: set[str] = set()

    def start(self) -> Any:
        (_, last) = yield shem.Run("install")
        self.threads.add(threading.current_thread().name)
        self.seen.append(f"{self.activity.id[:2]} {last.stdout}")
        assert self.activity.state().current == "Ready"

    def run(self) -> Any:
        try:
            yield shem.Run("fails")
        except shem.CommandFailed as failure:
            self.seen.append(f"failed {failure.result.index}")

    def shutdown(self) -> Any:
        yield shem.Run("bye")
        self.seen.append("bye")


async def test_a_service_without_async(tmp_path: Path) -> None:
    plain = Plain()

    def program(url: str) -> None:
        with golem(url) as session:
            running = session.service(plain, payload=WASM, name="s", state_dir=tmp_path)
            with running:
                assert running.activity.id == ACTIVITY_ID and not running.resumed
                running.wait()
                assert running.state == "terminated"

    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        good, bad = ok(results("deployed", "started")), ok(results("", fails=True))
        node.answer("GET", HERE + "/*/exec/*", good, good, bad, good)
        await plainly(node, program)

    assert plain.seen == ["dd started", "failed 0", "bye"]
    assert not any("shem.sync" in name for name in plain.threads)


async def test_a_closed_golem_says_so() -> None:
    def program(url: str) -> None:
        session = golem(url)
        with pytest.raises(UsageError, match="not open"):
            session.tickets()
        with session, session.attach(ACTIVITY_ID) as activity:
            pass
        with pytest.raises(UsageError, match="closed"):
            activity.state()
        threads = {thread.name for thread in threading.enumerate()}
        assert "shem.sync" not in threads, "its thread has ended"

    async with scripted_node() as node:
        await plainly(rentable(node), program)
