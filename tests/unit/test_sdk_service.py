"""`golem.service`: a new program takes a service up in the state that the last one left it in."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

import shem
from shem.kernel.errors import Conflict, StorageFault, UsageError
from shem.sdk.memory import Memory
from shem.sdk.service import TRANSITIONS, ServiceState
from tests.rented import (
    ACTIVITY_ID,
    AGREEMENT_ID,
    HERE,
    MARKET,
    WASM,
    accept_batch,
    agreement,
    golem,
    proposal,
    rentable,
    results,
)
from tests.scripted_node import Answer, Call, ScriptedNode, ok, scripted_node

Steps = AsyncGenerator[shem.Script, list[shem.CommandResult]]
TERMINATE = f"{MARKET}/agreements/*/terminate"


class Site:
    """A scripted node at which every command says its argument, unless told otherwise."""

    def __init__(self, node: ScriptedNode) -> None:
        self.node = rentable(node)
        self.scripts: dict[str, str] = {}
        self.failing: set[str] = set()
        self.hanging: set[str] = set()
        self._stirred = asyncio.Event()
        node.answer("GET", f"{MARKET}/agreements", ok([]))
        node.answer("POST", HERE + "/*/exec", self.execute)
        node.answer("GET", HERE + "/*/exec/*", self.poll)

    def execute(self, call: Call) -> Answer:
        asyncio.get_running_loop().call_later(0.02, self._stirred.set)
        self.scripts[call.body["batchId"]] = call.body["text"]
        return accept_batch(call)

    def poll(self, call: Call) -> Answer:
        asyncio.get_running_loop().call_later(0.02, self._stirred.set)
        text = self.scripts.get(call.path.rpartition("/")[2], "")
        word = _word(text)
        if word in self.hanging:
            return ok([])
        return ok(results(*(["deployed"] if not word else []), word, fails=word in self.failing))

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait until something is so; looked at with every call that the node gets."""
        while not reached():
            self._stirred.clear()
            await asyncio.wait_for(self._stirred.wait(), 5.0)

    def ran(self) -> list[str]:
        """Return the words of all scripts in the order in which they were sent."""
        words = [_word(call.body["text"]) for call in self.node.made("POST", HERE + "/*/exec")]
        return [word for word in words if word]


def _word(text: str) -> str:
    return text.partition('"entry_point":"')[2].partition('"')[0]


class Web(shem.Service):
    def __init__(self, *rounds: str) -> None:
        self.rounds = rounds
        self.seen: list[str] = []

    async def start(self) -> Steps:
        for step in ("install", "configure"):
            (result,) = yield shem.Run(step)
            self.seen.append(result.stdout)

    async def run(self) -> Steps:
        for word in self.rounds:
            (result,) = yield shem.Run(word)
            self.seen.append(result.stdout)
        await asyncio.Event().wait()

    async def shutdown(self) -> Steps:
        yield shem.Run("bye")


def service(session: shem.Golem, directory: Path, web: shem.Service, **options: Any) -> Any:
    return session.service(
        web, payload=WASM, name="web", timeout=1.0, state_dir=directory, **options
    )


async def test_start_run_shutdown_in_order(tmp_path: Path) -> None:
    async with scripted_node() as node:
        site = Site(node)
        web = Web("one", "two")
        async with golem(node) as session, service(session, tmp_path, web) as running:
            assert running.state is ServiceState.RUNNING and not running.resumed
            assert running.activity.id == ACTIVITY_ID and web.activity is running.activity
            await site.until(lambda: len(web.seen) == 4)
            await running.stop()
            assert running.state is ServiceState.TERMINATED

    assert site.ran() == ["install", "configure", "one", "two", "bye"]
    assert web.seen == ["install", "configure", "one", "two"]
    assert node.count("DELETE", HERE + "/*") == 1 and node.count("POST", TERMINATE) == 1


async def test_leaving_the_block_shuts_it_down(tmp_path: Path) -> None:
    async with scripted_node() as node:
        site = Site(node)
        async with golem(node) as session, service(session, tmp_path, Web()):
            pass

    assert site.ran() == ["install", "configure", "bye"]
    assert node.count("POST", TERMINATE) == 1


async def test_a_running_service_goes_on_with_run_and_not_with_start(tmp_path: Path) -> None:
    async with scripted_node() as node:
        site = Site(node)
        async with golem(node) as session, service(session, tmp_path, Web("one")) as running:
            ticket = await running.suspend()
        assert node.count("POST", TERMINATE) == 0 and ticket.activity_id == ACTIVITY_ID
        agreements = node.count("POST", f"{MARKET}/agreements")

        web = Web("two")
        async with golem(node) as session, service(session, tmp_path, web) as running:
            assert running.resumed and running.activity.id == ACTIVITY_ID
            await site.until(lambda: bool(web.seen))

    assert site.ran()[:2] == ["install", "configure"]
    assert site.ran()[-2:] == ["two", "bye"] and site.ran().count("install") == 1
    assert node.count("POST", f"{MARKET}/agreements") == agreements


async def test_a_start_that_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    async with scripted_node() as node:
        site = Site(node)
        site.hanging = {"configure"}
        async with golem(node) as session:
            opening = service(session, tmp_path, Web())
            task = asyncio.ensure_future(opening.__aenter__())
            await site.until(lambda: site.ran() == ["install", "configure"])
            await vanish(opening, task)
        first = [call.body["batchId"] for call in node.made("POST", HERE + "/*/exec")]

        site.hanging = set()
        web = Web()
        async with golem(node) as session, service(session, tmp_path, web) as running:
            assert running.resumed
            again = [call.body["batchId"] for call in node.made("POST", HERE + "/*/exec")]

    assert web.seen == ["install", "configure"]
    assert again == first, "what was sent is waited for"
    assert node.count("POST", HERE) == 1


async def test_a_step_that_may_have_been_sent_is_sent_again_under_its_own_id(
    tmp_path: Path,
) -> None:
    async with scripted_node() as node:
        site = Site(node)
        async with golem(node) as session, service(session, tmp_path, Web()) as running:
            await running.suspend()
        forget_the_last_step(tmp_path)
        first = [call.body["batchId"] for call in node.made("POST", HERE + "/*/exec")]

        async with golem(node) as session, service(session, tmp_path, Web()) as running:
            await running.suspend()

    sent = [call.body["batchId"] for call in node.made("POST", HERE + "/*/exec")]
    assert sent[len(first) :] == first[-1:] and site.ran()[-1] == "configure"


def forget_the_last_step(directory: Path) -> None:
    """Leave notes as of a program that died right after it had sent the second step."""
    (notes,) = directory.iterdir()
    lines = notes.read_text().splitlines(keepends=True)
    assert '"start:1"' in lines[3] and '"running"' in lines[4]
    notes.write_text("".join(lines[:3]))


async def vanish(opening: Any, task: "asyncio.Task[Any]") -> None:
    """Let a program end as a kill does: nothing is said to anybody, the lock is let go."""
    opening._suspended = True
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_batch_that_run_was_in_is_waited_for(tmp_path: Path) -> None:
    async with scripted_node() as node:
        site = Site(node)
        site.hanging = {"long"}
        async with golem(node) as session, service(session, tmp_path, Web("long")) as running:
            await site.until(lambda: "long" in site.ran())
            await running.suspend()
        left = node.made("POST", HERE + "/*/exec")[-1].body["batchId"]

        web = Web("next")
        async with golem(node) as session, service(session, tmp_path, web) as running:
            await asyncio.sleep(0.05)
            assert web.left is not None and web.left.id == left
            assert "next" not in site.ran()
            site.hanging = set()
            await site.until(lambda: bool(web.seen))
            await running.suspend()

    assert site.ran().count("long") == 1 and site.ran()[-1] == "next"


async def test_what_was_rented_just_before_the_death_is_found_at_the_node(tmp_path: Path) -> None:
    async with scripted_node() as node:
        Site(node)
        rows = [{"id": AGREEMENT_ID, "timestamp": "t", "role": "Requestor"}]
        node.answer("GET", f"{MARKET}/agreements", ok(rows))
        async with golem(node) as session, service(session, tmp_path, Web()) as running:
            assert running.activity.id == ACTIVITY_ID

    (asked,) = node.made("GET", f"{MARKET}/agreements")
    assert asked.query["state"] == "Approved" and asked.query["appSessionId"]
    assert node.count("POST", f"{MARKET}/demands") == 0 and node.count("POST", HERE) == 0


async def test_a_failed_command_is_raised_where_it_was_yielded(tmp_path: Path) -> None:
    class Careful(Web):
        async def start(self) -> Steps:
            try:
                yield shem.Run("install")
            except shem.CommandFailed as failure:
                self.seen.append(f"failed: {failure.result.stdout}")
                yield shem.Run("repair")

    async with scripted_node() as node:
        site = Site(node)
        site.failing = {"install"}
        web = Careful()
        async with golem(node) as session, service(session, tmp_path, web):
            pass

    assert web.seen == ["failed: install"] and site.ran() == ["install", "repair", "bye"]


async def test_a_start_that_fails_ends_what_was_rented(tmp_path: Path) -> None:
    async with scripted_node() as node:
        site = Site(node)
        site.failing = {"configure"}
        async with golem(node) as session:
            with pytest.raises(shem.CommandFailed):
                await service(session, tmp_path, Web()).__aenter__()
            assert node.count("POST", TERMINATE) == 1
            site.failing = set()
            again(node)
            async with service(session, tmp_path, Web()) as running:
                assert not running.resumed, "the next program begins anew"


def again(node: ScriptedNode) -> None:
    node.answer(
        "GET",
        f"{MARKET}/demands/*/events",
        ok([proposal("R-1")]),
        ok([proposal("R-3", prev="R-2")]),
        ok([]),
    )


async def test_a_program_that_fails_in_run_is_told_by_wait(tmp_path: Path) -> None:
    async with scripted_node() as node:
        site = Site(node)
        site.failing = {"one"}
        async with golem(node) as session:
            running = service(session, tmp_path, Web("one"))
            with pytest.raises(shem.CommandFailed):
                async with running:
                    await running.wait()

    assert node.count("DELETE", HERE + "/*") == 1 and "bye" not in site.ran()


async def suspended(node: ScriptedNode, directory: Path) -> None:
    async with golem(node) as session, service(session, directory, Web()) as running:
        await running.suspend()


async def test_an_activity_that_ended_meanwhile_is_said(tmp_path: Path) -> None:
    async with scripted_node() as node:
        Site(node)
        await suspended(node, tmp_path)
        node.answer("GET", f"{MARKET}/agreements/*", ok(agreement("Terminated")))
        async with golem(node) as session:
            with pytest.raises(shem.ActivityGone, match="ended by"):
                await service(session, tmp_path, Web()).__aenter__()
    assert node.count("POST", HERE) == 1


async def test_with_respawn_it_is_rented_and_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shem.sdk.running.RESPAWN_PAUSE_S", 0.01)
    async with scripted_node() as node:
        site = Site(node)
        await suspended(node, tmp_path)
        again(node)
        terminated = [ok(agreement("Terminated"))] * 3
        node.answer("GET", f"{MARKET}/agreements/*", *terminated, ok(agreement()))
        web = Web()
        async with golem(node) as session, service(session, tmp_path, web, respawn=True):
            pass

    assert node.count("POST", HERE) == 2 and web.seen == ["install", "configure"]
    assert site.ran().count("install") == 2


def end_agreement(node: ScriptedNode, code: str, message: str) -> None:
    """Have the provider end it."""
    reason = {"message": message, "golem.provider.code": code}
    common = {"eventDate": "2026-11-23T20:10:00Z", "agreementId": AGREEMENT_ID}
    kind = {"eventType": "AgreementTerminatedEvent", "terminator": "Provider"}
    node.answer("GET", f"{MARKET}/agreements/*", ok(agreement("Terminated")))
    event = {**common, **kind, "reason": reason}
    node.answer("GET", f"{MARKET}/agreements/*/terminate/reason", ok(event))


async def test_a_service_that_only_waits_learns_that_its_activity_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shem.sdk.running.LOOK_S", 0.01)
    async with scripted_node() as node:
        Site(node)
        async with golem(node) as session:
            with pytest.raises(shem.ActivityGone, match="Shutting down"):
                async with service(session, tmp_path, Web()) as running:
                    end_agreement(node, "Shutdown", "Shutting down Provider")
                    await asyncio.wait_for(running.wait(), 5.0)


async def test_a_service_that_ended_by_its_terms_has_ended_in_order_and_is_not_respawned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shem.sdk.running.LOOK_S", 0.01)
    offers = {"golem.srv.caps.end-when": ["time"]}
    async with scripted_node() as node:
        site = Site(node)
        node.answer(
            "GET",
            f"{MARKET}/demands/*/events",
            ok([proposal("R-1", **offers)]),
            ok([proposal("R-3", prev="R-2", **offers)]),
        )
        terms = {"respawn": True, "end_when": shem.EndWhen(time_s=60.0)}
        async with (
            golem(node) as session,
            service(session, tmp_path, Web(), **terms) as running,
        ):
            end_agreement(node, "Success", "Finished with success. Finished by its terms: time")
            await asyncio.wait_for(running.wait(), 5.0)
            assert running.state is ServiceState.TERMINATED

        [counter] = node.made("POST", f"{MARKET}/demands/*/proposals/*")
        assert counter.body["properties"]["golem.srv.end-when.time-sec"] == 60.0
        assert node.count("POST", HERE) == 1 and "bye" not in site.ran()


@pytest.mark.parametrize("end_when", [shem.EndWhen(batch_done=True), shem.EndWhen(exit=True)])
async def test_terms_that_would_end_a_service_with_its_first_script_are_refused(
    tmp_path: Path, end_when: shem.EndWhen
) -> None:
    async with scripted_node() as node:
        Site(node)
        async with golem(node) as session:
            with pytest.raises(UsageError, match="after its first script"):
                service(session, tmp_path, Web(), end_when=end_when)


async def test_two_programs_cannot_run_one_service(tmp_path: Path) -> None:
    async with scripted_node() as node:
        Site(node)
        async with golem(node) as session, service(session, tmp_path, Web()):
            with pytest.raises(Conflict, match="another program is running service 'web'"):
                await service(session, tmp_path, Web()).__aenter__()


def test_states_go_only_where_the_table_says() -> None:
    assert set(TRANSITIONS) == set(ServiceState)
    reachable = {ServiceState.PENDING}
    for _ in ServiceState:
        reachable |= {target for state in reachable for target in TRANSITIONS[state]}
    assert reachable == set(ServiceState)


@pytest.mark.parametrize(
    "entry", [{"kind": "odd"}, {"kind": "state", "state": "odd"}, {"kind": "batch"}]
)
def test_damaged_notes_are_said(entry: dict[str, Any]) -> None:
    with pytest.raises(StorageFault, match="damaged"):
        Memory.of([entry])


def test_notes_of_a_lost_activity_are_forgotten() -> None:
    memory = Memory.of(
        [
            {"kind": "state", "state": "starting", "activity": "a"},
            {"kind": "batch", "step": "start:0", "batch": "b"},
            {"kind": "state", "state": "running"},
            {"kind": "batch", "step": "running", "batch": "c"},
        ]
    )
    assert (memory.activity_id, memory.under_way) == ("a", "c")
    memory.apply({"kind": "state", "state": "pending"})
    assert memory == Memory()
