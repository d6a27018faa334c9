"""Our node answers a fresh daemon's REST as the recorded yagna 0.17.6 did.

Compared are status, content type and body. Left out are the APIs that are not built yet, and
texts that a foreign JSON parser words.
"""

import asyncio
import json
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest

from shem.kernel.config import NodeConfig
from shem.kernel.world import World
from shem.node.app import running_node

RECORDING = Path(__file__).parent.parent / "vectors" / "recordings" / "node_rest.jsonl"
BUILT = ("/me", "/nosuch", "/version/get", "/net-api/v2/net/status", "/market-api", "/activity-api")
LATER = ("/_monitor",)
FOREIGN_WORDS = ("Json deserialize error:",)
APP_KEY = "aaaa1111"
PREFLIGHT = "Access-Control-Request-Method"


def recorded() -> list[dict]:
    lines = [json.loads(line) for line in RECORDING.read_text().splitlines()[1:]]
    return [
        line
        for line in lines
        if line["path"].startswith(BUILT)
        and not any(part in line["path"] for part in LATER)
        and PREFLIGHT not in line["headers"]
    ]


async def ask(session: aiohttp.ClientSession, line: dict) -> tuple[int, str | None, object]:
    body = line.get("request_text") or None
    headers = {name: value.replace("aaaa1111", APP_KEY) for name, value in line["headers"].items()}
    async with session.request(
        line["method"],
        line["path"],
        headers=headers,
        data=body,
        skip_auto_headers=["Content-Type"],
    ) as answer:
        content = await answer.text()
        try:
            value: object = json.loads(content)
        except ValueError:
            value = content
        return answer.status, answer.headers.get("content-type"), value


def comparable(value: object) -> object:
    """Drop what may differ: our `code`, generated ids, times and a parser's words."""
    if not isinstance(value, dict):
        return value
    kept = {name: part for name, part in value.items() if name != "code"}
    message = kept.get("message")
    if isinstance(message, str) and message.startswith(FOREIGN_WORDS):
        kept["message"] = message.partition(":")[0]
    for name in ("identity", "nodeId", "listenIp", "current", "offerId"):
        if name in kept:
            kept[name] = "*"
    return kept


@pytest.fixture
async def session(tmp_path: Path):
    config = NodeConfig(
        datadir=tmp_path / "node",
        api_url="http://127.0.0.1:0",
        gsb_url=f"unix:{tmp_path}/gsb.sock",
        bind_url="udp://127.0.0.1:0",
        autoconf_appkey=APP_KEY,
    )
    config.datadir.mkdir(mode=0o700)
    async with running_node(config, World(), asyncio.Event()) as node:
        host, port = node.api_address
        async with aiohttp.ClientSession(f"http://{host}:{port}") as client:
            yield client


async def test_recorded_requests_are_answered_as_yagna_answered(session):
    lines = recorded()
    assert len(lines) > 30

    differing = []
    for line in lines:
        status, content_type, value = await ask(session, line)
        expected = line["response"]
        said = (status, content_type, comparable(value))
        wanted = (
            line["status"],
            line["response_headers"].get("content-type"),
            comparable(expected),
        )
        if status == 201:
            said, wanted = said[:2], wanted[:2]
        if said != wanted:
            differing.append(f"{line['method']} {line['path']}\n  said   {said}\n  wanted {wanted}")

    assert not differing, "\n".join(differing)


async def test_payments_answer_not_supported(session):
    headers = {"Authorization": f"Bearer {APP_KEY}"}

    async with session.get("/payment-api/v1/invoices", headers=headers) as answer:
        assert answer.status == 501
        assert (await answer.json())["code"] == "not-supported"


async def test_a_body_above_the_limit_is_refused(session):
    headers = {"Authorization": f"Bearer {APP_KEY}", "Content-Type": "application/json"}

    async with session.post(
        "/market-api/v1/demands", headers=headers, data=BytesIO(b" " * 2_097_153)
    ) as r:
        assert r.status == 413
