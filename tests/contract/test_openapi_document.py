"""The document beside the code: what is routed, what is read, what is answered."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema_rs
import pytest
from starlette.datastructures import QueryParams
from starlette.requests import Request

from shem.api.kit import ApiRoute
from shem.api.openapi import document, promised
from shem.node import app as node_app
from tests.contract.node_served import APP_KEY, node_served

KEY = {"Authorization": f"Bearer {APP_KEY}"}
WITHOUT_SCHEMA = re.compile(r"^/docs$|^/openapi\.json$|/_monitor$|/proxy-http/|/encrypted$")
"""The document itself, a stream without end, and what a service behind an activity answers."""
NOT_BUILT = re.compile(r"/payment-api/|/net-api/v1/net|/net-api/v2/vpn")
EXAMPLE_IDS = {
    "sub": "0" * 32 + "-" + "0" * 64,
    "prop": "R-" + "0" * 64,
    "agreement": "0" * 64,
    "scan": "0",
    "activity_id": "0" * 32,
    "batch_id": "0" * 32,
}
EXAMPLE_BODIES: dict[str, Any] = {
    "/market-api/v1/agreements": {
        "proposalId": EXAMPLE_IDS["prop"],
        "validTo": "2030-01-01T00:00:00Z",
    },
    "/market-api/v1/scan": {"type": "offer"},
    "/activity-api/v1/activity": "0" * 64,
    "/activity-api/v1/activity/{activity_id}/exec": {"text": "[]"},
    "/activity-api/v1/activity/{activity_id}/state": {"state": ["New", None]},
}
EXAMPLES_BY_TYPE = {"number": "0", "integer": "1"}


class Routed:
    """A running node, its document, and all its routes."""

    def __init__(self, session: aiohttp.ClientSession, made: Any, routes: list[ApiRoute]) -> None:
        self.session = session
        self.document = made
        self.routes = routes


@pytest.fixture
async def routed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Routed]:
    kept: list[Any] = []
    real = node_app.build_app

    def noting(routes: Any, *rest: Any) -> Any:
        kept.extend(routes)
        return real(routes, *rest)

    monkeypatch.setattr(node_app, "build_app", noting)
    async with (
        node_served(tmp_path) as (_, url),
        aiohttp.ClientSession(url) as session,
        session.get("/openapi.json") as answer,
    ):
        assert answer.status == 200
        assert answer.content_type == "application/json"
        yield Routed(session, await answer.json(), kept)


async def test_every_route_that_is_built_is_in_the_document(routed: Routed) -> None:
    named = {(method, path) for method, path, _ in promised(routed.routes)}
    for route in routed.routes:
        for method in route.methods or ():
            if WITHOUT_SCHEMA.search(route.path):
                assert (method, route.path) not in named
            elif (method, route.path) not in named:
                assert NOT_BUILT.search(route.path), f"{method} {route.path} is not described"
                path = re.sub(r"\{\w+(:path)?\}", "x", route.path)
                async with routed.session.request(method, path, headers=KEY) as answer:
                    assert answer.status == 501, f"{method} {path}"
    written = {
        (method.upper(), path)
        for path, operations in routed.document["paths"].items()
        for method in operations
    }
    assert written == named


async def test_the_document_is_the_same_each_time_and_well_formed(routed: Routed) -> None:
    assert document(routed.routes, routed.document["info"]["version"]) == routed.document
    ids = [
        operation["operationId"]
        for operations in routed.document["paths"].values()
        for operation in operations.values()
    ]
    assert len(ids) == len(set(ids)) > 40
    for path, operations in routed.document["paths"].items():
        for operation in operations.values():
            in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert in_path == set(re.findall(r"\{(\w+)\}", path))
    text = json.dumps(routed.document)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in routed.document["components"]["schemas"]


async def test_the_page_needs_no_key_and_nothing_from_elsewhere(routed: Routed) -> None:
    async with routed.session.get("/docs") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/html"
        html = await answer.text()
    assert not re.search(r'(src|href)="(?!#|/openapi\.json")', html)
    assert "<script" not in html
    assert "@import" not in html
    for path in routed.document["paths"]:
        assert path in html


async def test_what_is_documented_is_read_and_nothing_else(
    routed: Routed, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()

    class Noting(QueryParams):
        def get(self, key: Any, default: Any = None) -> Any:
            read.add(key)
            return super().get(key, default)

    monkeypatch.setattr(
        Request, "query_params", property(lambda self: Noting(self.scope["query_string"]))
    )
    checked = 0
    for path, operations in routed.document["paths"].items():
        for method, operation in operations.items():
            declared = [item for item in operation["parameters"] if item["in"] == "query"]
            params = {item["name"]: _example(item["schema"]) for item in declared}
            read.clear()
            url = re.sub(r"\{(\w+)\}", lambda match: EXAMPLE_IDS[match[1]], path)
            body = EXAMPLE_BODIES.get(path, {"properties": {}, "constraints": "", "message": ""})
            async with routed.session.request(
                method,
                url,
                params=params,
                headers=KEY,
                json=body if "requestBody" in operation else None,
            ) as answer:
                assert str(answer.status) in operation["responses"], f"{method} {path}"
            assert read - {"authToken"} == set(params), f"{method} {path}"
            checked += 1
    assert checked > 40


def _example(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return str(schema["enum"][0])
    if schema.get("format") == "date-time":
        return "2030-01-01T00:00:00Z"
    if "pattern" in schema:
        return "0x" + "0" * 40
    return EXAMPLES_BY_TYPE.get(schema["type"], "x")


def test_the_answers_of_a_recorded_negotiation_fit_the_document() -> None:
    """The recordings of the real daemon: what it answers, our document describes."""
    from shem.api.market import routes

    made = document(routes(None), "0")  # type: ignore[arg-type]
    recordings = Path(__file__).parents[1] / "vectors" / "recordings"
    checked = 0
    for name in ("market_negotiation_rest.jsonl", "market_rest_errors.jsonl"):
        for line in (recordings / name).read_text().splitlines()[1:]:
            record = json.loads(line)
            found = _operation(made, record["method"], record["path"])
            if found is None or record["status"] not in (200, 201):
                continue
            content = found["responses"][str(record["status"])].get("content")
            if content is None:
                assert record["response"] in ("", None)
                continue
            schema = content["application/json"]["schema"] | {"components": made["components"]}
            jsonschema_rs.validate(schema, record["response"])
            checked += 1
    assert checked > 20


def _operation(made: Any, method: str, path: str) -> Any:
    for template, operations in made["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            return operations.get(method.lower())
    return None
