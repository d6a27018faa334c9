"""Event streams, the monitor and HTTP through an activity, over the real service and REST."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shem.activity.proxy import build_call
from tests.sim.activity_town import AGREEMENT, RUN, STRANGER, THREE, Town
from tests.sim.test_activity_rest import Client
from tests.sim.virtual_time import run_virtually

Story = Callable[[Town, Client, Client], Awaitable[None]]
Play = Callable[[Story], None]
SSE = "text/event-stream"


@pytest.fixture
def play(tmp_path: Path) -> Play:
    async def told(story: Story) -> None:
        async with Town(tmp_path) as town:
            await story(town, Client(town.requestor), Client(town.provider))

    return lambda story: run_virtually(told(story))


def items(body: bytes) -> list[Any]:
    return [
        json.loads(line.removeprefix(b"data: "))
        for line in body.replace(b"\r\n", b"\n").splitlines()
        if line.startswith(b"data: ")
    ]


# --- results as events --------------------------------------------------------------------------


def test_a_batch_whose_results_are_here_is_told_without_its_provider(play: Play) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        activity = await town.create()
        batch = await town.exec(activity, THREE)
        await town.results(activity, batch)
        town.cut()

        path = f"/activity/{activity}/exec/{batch}"
        answer = await rest("GET", path, accept=SSE, until=lambda body: body.endswith(b":ping\n"))

        told = items(answer.body)
        kinds = [(event["index"], next(iter(event["kind"]))) for event in told]
        assert kinds == [
            (index, kind) for index in range(3) for kind in ("started", "stdout", "finished")
        ]
        assert told[0]["kind"]["started"]["command"].keys() == {"deploy"}
        assert told[-1]["kind"]["finished"] == {"return_code": 0, "message": None}
        assert {event["batch_id"] for event in told} == {batch}
        assert b"\nid: 8\n\n" in answer.body

    play(story)


def test_a_failed_command_is_retold_with_its_exit_code(play: Play) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        activity = await town.create()
        town.agent.unit.auto = False
        batch = await town.exec(activity, THREE)
        town.agent.unit.finish(batch, ok=False)
        await town.results(activity, batch)

        path = f"/activity/{activity}/exec/{batch}"
        answer = await rest("GET", path, accept=SSE, until=lambda body: body.endswith(b":ping\n"))

        assert items(answer.body)[-1]["kind"]["finished"]["return_code"] == 1

    play(story)


def test_a_stream_that_cannot_begin_is_an_error_and_no_endless_silence(play: Play) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        activity = await town.create()
        town.agent.unit.auto = False
        batch = await town.exec(activity, THREE)
        town.cut()
        path = f"/activity/{activity}/exec/{batch}"
        away = await rest("GET", path, accept=SSE)
        assert (away.status, away.json["code"]) == (500, "peer-unreachable")

        town.join()
        await asyncio.sleep(100)
        town.agent.unit.unbind()
        gone = await rest("GET", path, accept=SSE)
        assert (gone.status, gone.json["code"]) == (500, "endpoint-gone")
        town.requestor.market.end()
        ended = await rest("GET", f"/activity/{activity}/exec/{'e' * 32}", accept=SSE)
        assert (ended.status, ended.json["code"]) == (500, "activity-ended")

    play(story)


def test_a_command_that_says_nothing_is_kept_alive_by_comments(play: Play) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        activity = await town.create()
        unit = town.agent.unit
        unit.auto, unit.stream_pause_s = False, 100.0
        batch = await town.exec(activity, RUN)

        answer = await rest(
            "GET",
            f"/activity/{activity}/exec/{batch}",
            accept=SSE,
            until=lambda body: b"finished" in body,
        )

        before, _, after = answer.body.partition(b"id: 0\n\n")
        assert before.startswith(b"event: runtime\n") and after.startswith(b":ping\n" * 6)
        assert b"id: 1\n" in after

    play(story)


# --- the monitor --------------------------------------------------------------------------------


def test_the_monitor_tells_the_present_and_then_every_change(play: Play) -> None:
    async def story(town: Town, rest: Client, provider: Client) -> None:
        first = await town.create()
        await asyncio.sleep(2)
        watching = asyncio.create_task(
            provider("GET", "/_monitor", until=lambda body: b"Terminated" in body)
        )
        await asyncio.sleep(5)
        await town.destroy(first)
        answer = await watching

        assert answer.content_type.startswith(SSE)
        told = items(answer.body)
        assert answer.body.startswith(b"data: {") and answer.body.endswith(b"}\r\n\r\n")
        assert told[0]["activities"] == [
            {
                "id": first,
                "state": "Initialized",
                "exeUnit": "wasmtime",
                "agreementId": AGREEMENT,
                "usage": {"golem.usage.cpu_sec": 1.0, "golem.usage.duration_sec": 2.0},
            }
        ]
        assert told[-1]["activities"][0]["state"] == "Terminated"
        assert 3 < len(told) < 30, "usage comes each half second, and not each time as an item"

    play(story)


@pytest.mark.parametrize("who", ["requestor", "stranger"])
def test_who_provides_nothing_sees_nothing(play: Play, who: str) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        await town.create()
        client = rest if who == "requestor" else Client(town.provider, STRANGER)
        answer = await client("GET", "/_monitor", until=lambda body: body.count(b"data:") == 2)
        assert [item["activities"] for item in items(answer.body)] == [[], []]

    play(story)


# --- HTTP through an activity -------------------------------------------------------------------


def test_an_http_call_goes_to_the_service_and_comes_back(play: Play) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        activity = await town.create()
        path = f"/activity/{activity}/proxy-http/api/v1/items"

        answer = await rest("POST", f"{path}?q=a%20b&q=c&authToken=secret", {"n": 1})

        (seen,) = town.agent.unit.http
        assert (seen["method"], seen["path"]) == ("POST", "api/v1/items?q=a+b&q=c")
        assert "authorization" not in seen["headers"], "the application key stays with the node"
        assert "secret" not in str(seen)
        assert seen["headers"]["content-type"] == ["application/json"]
        assert (answer.status, answer.content_type) == (201, "text/x")
        assert answer.body == b'\xff{"n": 1}', "bodies need not be text"

    play(story)


@pytest.mark.parametrize("accept", [SSE, "application/octet-stream"])
def test_a_streamed_answer_comes_as_it_is_made(play: Play, accept: str) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        activity = await town.create()
        answer = await rest("GET", f"/activity/{activity}/proxy-http/x?a=1", accept=accept)

        assert (answer.status, answer.body) == (200, b"data: 1\n\ndata: 2\n\n")
        assert answer.content_type.startswith(accept)
        assert town.agent.unit.http[0]["path"] == "x?a=1"

    play(story)


def test_only_the_requestor_calls_the_service(play: Play) -> None:
    async def story(town: Town, rest: Client, provider: Client) -> None:
        activity = await town.create()
        path = f"/activity/{activity}/proxy-http/x"
        for client in (provider, Client(town.requestor, STRANGER)):
            assert (await client("GET", path)).status == 404
        assert town.agent.unit.http == []

    play(story)


@pytest.mark.parametrize(
    "reply",
    [
        [],
        {"header": {"status_code": 99, "response_headers": {}}, "body": {"msg_bytes": b""}},
        {"header": {"status_code": 200, "response_headers": {"a": ["x\r\ny: z"]}}, "body": {}},
        {"header": {"status_code": 200, "response_headers": {"a": ["x"] * 300}}, "body": {}},
        {"header": {"status_code": 200, "response_headers": {}}},
        {"header": None, "body": {"msg_bytes": b""}},
    ],
)
def test_an_answer_that_is_none_is_the_peers_fault(play: Play, reply: Any) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        activity = await town.create()
        unit = town.agent.unit
        unit.http_reply = reply
        answer = await rest("GET", f"/activity/{activity}/proxy-http/x")
        assert answer.status == 500 and answer.json["code"] == "malformed"
        assert b"y: z" not in answer.body

    play(story)


def test_a_sealed_message_reaches_an_enclave_and_only_for_the_requestor(play: Play) -> None:
    async def story(town: Town, rest: Client, provider: Client) -> None:
        activity = await town.create()
        unit = town.agent.unit
        unit.unbind()
        unit.has_enclave = True
        unit.bind()

        answer = await rest("POST", f"/activity/{activity}/encrypted", [1, 2])
        assert (answer.status, answer.body) == (200, b"]2 ,1[")
        assert answer.content_type == "application/octet-stream"
        assert (await provider("POST", f"/activity/{activity}/encrypted", [1])).status == 404

    play(story)


def test_an_exeunit_without_an_enclave_answers_as_one_of_a_yagna_does(play: Play) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        activity = await town.create()
        answer = await rest("POST", f"/activity/{activity}/encrypted", [1, 2])

        assert (answer.status, answer.json["code"]) == (500, "endpoint-gone")
        assert "CallEncryptedService` error: GSB failure" in answer.json["message"]
        assert "endpoint address not found" in answer.json["message"]

    play(story)


def test_what_belongs_to_this_connection_is_not_forwarded() -> None:
    headers = [
        ("Host", "h"),
        ("Authorization", "Bearer k"),
        ("Accept-Encoding", "gzip"),
        ("X-A", "1"),
        ("x-a", "2"),
        ("Transfer-Encoding", "chunked"),
    ]
    call = build_call("GET", "p", "authToken=k&x=%C5%BE&y=", headers, b"")
    assert call.headers == {"x-a": ["1", "2"]}
    assert call.path == "p?x=%C5%BE&y=" and call.wire()["body"] is None
    assert build_call("GET", "p", "a=1;b=2", [], b"").path == "p?a=1;b=2"
    assert build_call("GET", "p", "authToken=k", [], b"").path == "p"
