"""The REST shapes of docs/protocol/activity-exeunit.md §2, over the real service."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from shem.api.activity import routes
from shem.api.app import build_app
from shem.kernel.ids import NodeId
from tests.sim.activity_town import AGREEMENT, PROVIDER, RUN, STRANGER, Node, Town, requests
from tests.sim.virtual_time import run_virtually

BASE = "/activity-api/v1"
BATCH = "0123456789abcdef" * 2


@dataclass(frozen=True)
class Principal:
    identity: NodeId
    name: str = "n"
    role: str = "manager"


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Calls the REST application of one node in place."""

    def __init__(self, node: Node, identity: NodeId | None = None) -> None:
        principal = Principal(identity or node.node_id)

        async def lookup(_key: str) -> Principal:
            return principal

        self._app = build_app(routes(node.service), lookup)

    async def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        accept: str = "application/json",
        until: Callable[[bytes], bool] | None = None,
    ) -> Answer:
        parts = urlsplit(path)
        headers = [(b"authorization", b"Bearer k"), (b"accept", accept.encode())]
        payload = b"" if body is None else json.dumps(body).encode()
        if body is not None:
            headers.append((b"content-type", b"application/json"))
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": BASE + parts.path,
            "raw_path": (BASE + parts.path).encode(),
            "query_string": parts.query.encode(),
            "headers": headers,
            "scheme": "http",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "root_path": "",
            "state": {},
        }
        incoming = [{"type": "http.request", "body": payload, "more_body": False}]
        gone = asyncio.Event()
        sent: list[Any] = []

        async def receive() -> Any:
            if incoming:
                return incoming.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if until is not None and until(_body(sent)):
                gone.set()

        await self._app(scope, receive, send)
        head = next(item for item in sent if item["type"] == "http.response.start")
        content_type = dict(head["headers"]).get(b"content-type", b"").decode()
        return Answer(head["status"], content_type, _body(sent))


def _body(sent: list[Any]) -> bytes:
    return b"".join(item.get("body", b"") for item in sent)


Story = Callable[[Town, Client, Client], Awaitable[None]]
Play = Callable[[Story], None]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    async def told(story: Story) -> None:
        async with Town(tmp_path) as town:
            await story(town, Client(town.requestor), Client(town.provider))

    return lambda story: run_virtually(told(story))


def test_a_string_body_is_answered_with_a_string_and_an_object_with_an_object(play: Play) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        one = await rest("POST", "/activity?timeout=10", AGREEMENT)
        two = await rest("POST", "/activity", {"agreementId": AGREEMENT})
        assert (one.status, one.content_type) == (200, "application/json")
        assert one.json in town.agent.units
        assert two.json == {"activityId": list(town.agent.units)[1]}
        assert (await rest("GET", f"/activity?agreementId={AGREEMENT}")).json == list(
            town.agent.units
        )

    play(story)


def test_the_whole_way_has_yagnas_shapes(play: Play) -> None:
    async def story(town: Town, rest: Client, provider: Client) -> None:
        activity = (await rest("POST", "/activity", AGREEMENT)).json
        path = f"/activity/{activity}"
        assert (await rest("GET", f"{path}/state")).json == {"state": ["Initialized", None]}
        assert (await rest("GET", f"{path}/agreement")).json == AGREEMENT
        await town.agent.unit.report_usage(1.5, 0.5)
        usage = (await rest("GET", f"{path}/usage")).json
        assert usage["currentUsage"] == [1.5, 0.5]
        assert isinstance(usage["timestamp"], int)

        batch = await rest("POST", f"{path}/exec", {"text": RUN})
        assert (batch.status, len(batch.json)) == (200, 32)
        results = await rest("GET", f"{path}/exec/{batch.json}?timeout=5&maxItems=1")
        assert results.json == [
            {
                "index": 0,
                "result": "Ok",
                "stdout": "out0\n",
                "stderr": None,
                "message": None,
                "isBatchFinished": True,
                "eventDate": "2027-01-15T08:00:00Z",
            }
        ]
        listed = (await rest("GET", f"{path}/exec")).json
        assert [(row["batchId"], row["state"]) for row in listed] == [(batch.json, "accepted")]
        assert listed[0]["script"] == [{"run": {"entry_point": "/bin/x", "args": ["1"]}}]
        assert (listed[0]["commands"], listed[0]["resultsStored"]) == (1, 1)
        assert listed[0]["isFinished"] is True

        for _ in range(2):
            ended = await rest("DELETE", f"{path}?timeout=10")
            assert (ended.status, ended.body) == (200, b"null")
        assert (await provider("GET", f"{path}/state")).json == {
            "state": ["Terminated", None],
            "reason": "Finished",
        }

    play(story)


def test_results_without_a_timeout_are_those_of_this_moment(play: Play) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        activity = (await rest("POST", "/activity", AGREEMENT)).json
        batch = (await rest("POST", f"/activity/{activity}/exec", {"text": RUN})).json
        answer = await rest("GET", f"/activity/{activity}/exec/{batch}")
        assert [entry["stdout"] for entry in answer.json] == ["out0\n"]

    play(story)


def test_a_batch_id_of_the_clients_own_is_kept_and_checked(play: Play) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        activity = (await rest("POST", "/activity", AGREEMENT)).json
        path = f"/activity/{activity}/exec"
        for _ in range(2):
            assert (await rest("POST", path, {"text": RUN, "batchId": BATCH})).json == BATCH
        refused = await rest("POST", path, {"text": "[]", "batchId": BATCH})
        assert refused.status == 400
        assert refused.json["message"] == f"Bad request: Batch {BATCH} already exists"
        assert (await rest("POST", path, {"text": RUN, "batchId": "mine"})).status == 400

    play(story)


def test_runtime_events_are_streamed_in_yagnas_bytes(play: Play) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        activity = (await rest("POST", "/activity", AGREEMENT)).json
        batch = (await rest("POST", f"/activity/{activity}/exec", {"text": RUN})).json
        path = f"/activity/{activity}/exec/{batch}"

        answer = await rest(
            "GET",
            path,
            accept="text/event-stream",
            until=lambda body: body.endswith(b":ping\n:ping\n"),
        )

        assert answer.content_type.startswith("text/event-stream")
        first, second, rest_of_it = answer.body.split(b"\n\n")
        assert first == (
            b'event: runtime\ndata: {"batch_id":"' + batch.encode() + b'","index":0,"timestamp":'
            b'"2026-11-23T20:00:00.123456","kind":{"stdout":"hi\\n"}}\nid: 0'
        )
        assert second.endswith(b"\nid: 1")
        assert rest_of_it == b":ping\n:ping\n"
        both = await rest("GET", path, accept="text/event-stream, application/json")
        assert isinstance(both.json, list)

    play(story)


def test_the_agents_events_and_reports(play: Play) -> None:
    async def story(town: Town, rest: Client, provider: Client) -> None:
        empty = await provider("GET", "/events?afterTimestamp=2026-01-01T00:00:00Z&timeout=1")
        assert (empty.status, empty.json["message"]) == (408, "Timeout")
        activity = (await rest("POST", "/activity", AGREEMENT)).json
        query = "afterTimestamp=2026-01-01T00:00:00Z&appSessionId=session-1&timeout=1&maxEvents=5"

        events = (await provider("GET", f"/events?{query}")).json

        assert [(event["activityId"], event["eventType"]) for event in events] == [
            (activity, {"CreateActivity": {}})
        ]
        assert events[0]["agreementId"] == AGREEMENT
        after = events[0]["eventDate"].replace(":", "%3A")
        assert (await provider("GET", f"/events?afterTimestamp={after}&timeout=0")).status == 408
        assert (
            await rest("GET", "/events?afterTimestamp=2026-01-01T00:00:00Z&timeout=0")
        ).status == 408
        state = {"state": ["Terminated", None], "reason": "execution aborted"}
        put = await provider("PUT", f"/activity/{activity}/state", state)
        assert (put.status, put.body) == (200, b"null")
        assert (await rest("GET", f"/activity/{activity}/state")).json == state
        refused = await rest("PUT", f"/activity/{activity}/state", state)
        assert (refused.status, refused.json["message"]) == (404, f"Not found: {AGREEMENT}")

    play(story)


def test_an_event_wakes_its_poll_at_once(play: Play) -> None:
    async def story(town: Town, rest: Client, provider: Client) -> None:
        clock = town.world.clock
        query = "afterTimestamp=2026-01-01T00:00:00Z&timeout=60"
        poll = asyncio.create_task(provider("GET", f"/events?{query}"))
        await asyncio.sleep(10)
        creating = asyncio.create_task(rest("POST", "/activity", AGREEMENT))
        started = clock.monotonic()
        assert (await poll).status == 200
        assert clock.monotonic() - started < 0.1
        await creating

    play(story)


NOTHING = "DAO error: Not found: agreement id for activity: deadbeef"


@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        (("GET", "/activity/deadbeef/state", None), 500, NOTHING),
        (("GET", "/activity/deadbeef/usage", None), 500, NOTHING),
        (("GET", "/activity/deadbeef/agreement", None), 500, NOTHING),
        (("GET", "/activity/deadbeef/command", None), 500, NOTHING),
        (("GET", "/activity/deadbeef/exec", None), 500, NOTHING),
        (("GET", "/activity/deadbeef/exec/00", None), 500, NOTHING),
        (("POST", "/activity/deadbeef/exec", {"text": "[]"}), 500, NOTHING),
        (("DELETE", "/activity/deadbeef", None), 500, NOTHING),
        (("PUT", "/activity/deadbeef/state", {"state": ["Ready", None]}), 500, NOTHING),
        (
            ("POST", "/activity", {"agreementId": "nope"}),
            500,
            "Service error: Id [nope] contains non hexadecimal characters.",
        ),
        (("POST", "/activity", "00" * 32), 404, f"Not found: {'00' * 32}"),
        (
            ("POST", "/activity", {"agreementId": AGREEMENT, "requestorPubKey": "zz"}),
            400,
            "Bad request: Invalid requestor pub key: Invalid character 'z' at position 0",
        ),
        (("POST", "/activity/deadbeef/encrypted", None), 500, NOTHING),
        (("GET", "/activity/deadbeef/proxy-http/a/b", None), 500, NOTHING),
        (("PATCH", "/activity/deadbeef/proxy-http/a/b", None), 500, NOTHING),
    ],
)
def test_errors_have_yagnas_status_and_words(
    play: Play, call: tuple[str, str, object], status: int, message: str
) -> None:
    async def story(_town: Town, rest: Client, _provider: Client) -> None:
        answer = await rest(*call)
        assert (answer.status, answer.json["message"]) == (status, message)
        assert answer.json["code"]

    play(story)


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("GET", "/events", None, "Query deserialize error: missing field `afterTimestamp`"),
        ("GET", "/activity", None, "Query deserialize error: missing field `agreementId`"),
        (
            "GET",
            "/events?afterTimestamp=1600000000Z",
            None,
            "Query deserialize error: input contains invalid characters",
        ),
        (
            "GET",
            "/activity/00/exec/00?commandIndex=-1",
            None,
            "Query deserialize error: invalid digit found in string",
        ),
        (
            "GET",
            "/activity/00/exec/00?timeout=abc",
            None,
            "Query deserialize error: invalid float literal",
        ),
        ("POST", "/activity/00/exec", {"txt": "[]"}, "Json deserialize error"),
        ("POST", "/activity", 5, "Json deserialize error"),
        ("PUT", "/activity/00/state", {"state": ["Odd", None]}, "Json deserialize error"),
    ],
)
def test_malformed_requests_are_plain_text(
    play: Play, method: str, path: str, body: object, words: str
) -> None:
    async def story(_town: Town, rest: Client, _provider: Client) -> None:
        answer = await rest(method, path, body)
        assert (answer.status, answer.content_type) == (400, "text/plain; charset=utf-8")
        assert answer.body.decode().startswith(words)

    play(story)


def test_a_party_of_the_other_side_and_a_stranger_see_no_agreement(play: Play) -> None:
    async def story(town: Town, rest: Client, provider: Client) -> None:
        activity = (await rest("POST", "/activity", AGREEMENT)).json
        stranger = Client(town.requestor, STRANGER)
        for client in (provider, stranger):
            answer = await client("POST", f"/activity/{activity}/exec", {"text": "[]"})
            assert (answer.status, answer.json["message"]) == (404, f"Not found: {AGREEMENT}")
        assert (await stranger("DELETE", f"/activity/{activity}")).status == 404
        assert (await stranger("GET", f"/activity/{activity}/state")).status == 404
        assert (await provider("GET", f"/activity/{activity}/state")).status == 200

    play(story)


def test_failures_of_the_peer_have_the_words_that_sdks_look_for(play: Play) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        activity = (await rest("POST", "/activity", AGREEMENT)).json
        path = f"/activity/{activity}"
        town.cut()
        away = await rest("GET", f"{path}/state")
        assert (away.status, away.json["code"]) == (500, "peer-unreachable")
        assert away.json["message"].startswith(
            f"GSB error: Remote service at `/net/{PROVIDER}/activity/GetActivityState` error:"
        )
        town.join()
        town.requestor.net.drops = requests("GetActivityState")
        silent = await rest("GET", f"{path}/state?timeout=1")
        assert (silent.status, silent.json) == (408, {"message": "Timeout", "code": "timeout"})
        await asyncio.sleep(60)
        town.agent.unit.unbind()
        gone = await rest("GET", f"{path}/command")
        assert (gone.status, gone.json["code"]) == (500, "endpoint-gone")
        assert gone.json["message"] == (
            f"GSB error: Remote service at `/net/{PROVIDER}/exeunit/{activity}/GetRunningCommand`"
            " error: GSB failure: Bad request: endpoint address not found"
        )

    play(story)


def test_an_exec_without_an_answer_is_a_408_and_its_results_say_never(play: Play) -> None:
    async def story(town: Town, rest: Client, _provider: Client) -> None:
        activity = (await rest("POST", "/activity", AGREEMENT)).json
        path = f"/activity/{activity}/exec"
        town.requestor.net.drops = requests("Exec")
        clock = town.world.clock
        started = clock.monotonic()
        answer = await rest("POST", f"{path}?timeout=2", {"text": RUN, "batchId": BATCH})
        assert (answer.status, answer.json["code"]) == (408, "timeout")
        assert clock.monotonic() - started == pytest.approx(3, abs=0.1)
        never = await rest("GET", f"{path}/{BATCH}")
        assert (never.status, never.json["code"]) == (404, "batch-never")

    play(story)
