"""A node made of recorded answers, on loopback: what a client sees, without a daemon.

`node.answer("GET", "/me", recorded(…))` scripts the answers of one path (`*` matches one segment);
the last of them repeats. `LOST` reads the call and drops the connection: the client cannot know
whether anything happened. Every call is kept in `node.calls`.
"""

import fnmatch
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

RECORDINGS = Path(__file__).parent / "vectors" / "recordings"
APP_KEY = "test-key"


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any = None


LOST = Answer(0)


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass
class ScriptedNode:
    url: str = ""
    calls: list[Call] = field(default_factory=list)
    _answers: dict[tuple[str, str], list[Answer | Callable[[Call], Answer]]] = field(
        default_factory=dict
    )

    def answer(self, method: str, path: str, *answers: Answer | Callable[[Call], Answer]) -> None:
        self._answers[method, path] = list(answers)

    def count(self, method: str, path: str) -> int:
        return len(self.made(method, path))

    def made(self, method: str, path: str) -> list[Call]:
        return [c for c in self.calls if c.method == method and _fits(c.path, path)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        call = Call(
            request.method, request.path, dict(request.query), json.loads(text) if text else None
        )
        self.calls.append(call)
        assert request.headers["Authorization"] == f"Bearer {APP_KEY}"
        for (method, pattern), answers in self._answers.items():
            if method == call.method and _fits(call.path, pattern):
                found = answers.pop(0) if len(answers) > 1 else answers[0]
                return self._reply(request, found(call) if callable(found) else found)
        return web.Response(status=404)

    def _reply(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        if answer is LOST:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if answer.body is None and answer.status == 204:
            return web.Response(status=204)
        if isinstance(answer.body, bytes):
            return web.Response(status=answer.status, body=answer.body)
        return web.json_response(answer.body, status=answer.status)


def _fits(path: str, pattern: str) -> bool:
    given, wanted = path.split("/"), pattern.split("/")
    return len(given) == len(wanted) and all(map(fnmatch.fnmatchcase, given, wanted))


def ok(body: Any) -> Answer:
    return Answer(200, body)


def recorded(
    file: str,
    method: str,
    path: str,
    *,
    status: int | None = None,
    node: str = "requestor",
    nth: int = 0,
) -> Answer:
    """Return the nth recorded answer of a call whose path ends as `path` does (`*` = anything)."""
    found = []
    for line in (RECORDINGS / f"{file}.jsonl").read_text().splitlines()[1:]:
        entry = json.loads(line)
        if (
            entry.get("method") == method
            and fnmatch.fnmatchcase(entry["path"], "*" + path)
            and (status is None or entry["status"] == status)
            and entry.get("node", node) == node
        ):
            body = entry.get("response")
            found.append(Answer(entry["status"], b"" if body == "" else body))
    return found[nth]


@asynccontextmanager
async def scripted_node() -> AsyncIterator[ScriptedNode]:
    node = ScriptedNode()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", node.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    node.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield node
    finally:
        await runner.cleanup()
