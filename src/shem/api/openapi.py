"""The OpenAPI document of this node, made of what its routes promise, and a page for people.

`/openapi.json` and `/docs` need no application key: they tell nothing about this node but what it
can do. What is not built yet (501) has no promise and is not in the document.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from http import HTTPStatus
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shem.api.contract import Body, ErrorMessage, Promise, Schema
from shem.api.docs_page import page
from shem.api.kit import BODY_SIZE_MAX, ApiRoute, json_reply, open_route

VERSION: Final = "3.1.0"
JSON: Final = "application/json"
TEXT: Final = "text/plain"
SCHEMAS: Final = "#/components/schemas/{name}"
_PLACEHOLDER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")
KEYS: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"authToken": []}]

Promised = tuple[str, str, Promise]


def promised(routes: Iterable[Route]) -> list[Promised]:
    """Return method, path and promise of all routes that have one."""
    return [
        (method, route.path, route.promise)
        for route in routes
        if isinstance(route, ApiRoute) and route.promise is not None
        for method in sorted(route.methods or ())
    ]


def document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """Return the OpenAPI document."""
    lines = promised(routes)
    types = [kind for _, _, promise in lines for kind in _types(promise)] + [ErrorMessage]
    found, components = msgspec.json.schema_components(types, ref_template=SCHEMAS)
    schemas = {id(kind): schema for kind, schema in zip(types, found, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for method, path, promise in lines:
        operation = _operation(method, path, promise, schemas)
        paths.setdefault(_PLACEHOLDER.sub(r"{\1}", path), {})[method.lower()] = operation
    _link(paths)
    return {
        "openapi": VERSION,
        "info": {
            "title": "shem",
            "version": version,
            "description": "A Golem node's REST, as yagna 0.17.6 answers it, and more.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "authToken": {"type": "apiKey", "in": "query", "name": "authToken"},
            },
        },
        "security": KEYS,
    }


def routes(others: Sequence[Route], version: str) -> list[Route]:
    """Return the routes that serve the document and the page about `others`."""

    @cache
    def made() -> dict[str, Any]:
        return document(others, version)

    async def openapi(_request: Request) -> Response:
        return json_reply(made())

    async def docs(_request: Request) -> Response:
        return Response(page(made()), media_type="text/html")

    return [open_route("/openapi.json", openapi), open_route("/docs", docs)]


def _link(paths: dict[str, dict[str, Any]]) -> None:
    """Say which calls take the id that a POST answers: those on what it made."""
    for path, operations in paths.items():
        made = operations.get("post")
        if made is None:
            continue
        one = re.compile(re.escape(path) + r"/\{(\w+)\}")
        links = {
            operation["operationId"]: {
                "operationId": operation["operationId"],
                "parameters": {match[1]: "$response.body"},
            }
            for other, others in paths.items()
            if (match := one.match(other))
            for operation in others.values()
        }
        for status, response in made["responses"].items():
            if links and status.startswith("2"):
                response["links"] = links


def _types(promise: Promise) -> list[Any]:
    kinds = [kind for answer in promise.answers.values() for kind in _kinds(answer)]
    kinds = [kind for kind in kinds if not isinstance(kind, Body)]
    return kinds + ([] if promise.body is None else [promise.body])


def _kinds(answer: object) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


def _operation(
    method: str, path: str, promise: Promise, schemas: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": promise.summary,
        "operationId": _name(method, path),
        "tags": [path.split("/")[1]],
        "parameters": _parameters(path, promise),
        "responses": _responses(promise, schemas),
    }
    if promise.is_open:
        operation["security"] = []
    if promise.body is not None:
        schema = schemas[id(promise.body)]
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    return operation


def _name(method: str, path: str) -> str:
    words = re.findall(r"\w+", _PLACEHOLDER.sub(r"by_\1", path))
    return "_".join([method.lower(), *words])


def _parameters(path: str, promise: Promise) -> list[dict[str, Any]]:
    in_path = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": promise.paths.get(name, {"type": "string"}),
        }
        for name in _PLACEHOLDER.findall(path)
    ]
    in_query = [
        {
            "name": param.name,
            "in": "query",
            "required": param.required,
            "description": param.about,
            "schema": param.schema,
        }
        for param in promise.query
    ]
    return in_path + in_query


def _responses(promise: Promise, schemas: dict[int, dict[str, Any]]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in promise.answers.items():
        content = {
            kind.value if isinstance(kind, Body) else JSON: {
                "schema": {"type": "string"} if isinstance(kind, Body) else schemas[id(kind)]
            }
            for kind in _kinds(answer)
            if kind is not Body.EMPTY
        }
        responses[str(status)] = _response(status, content)
    words: Schema = {"type": "string"}
    error = {JSON: {"schema": schemas[id(ErrorMessage)]}, TEXT: {"schema": words}}
    for status in _errors(promise):
        content = {TEXT: {"schema": words}} if status in (401, 413) else error
        responses[str(status)] = _response(status, content)
    return responses


def _errors(promise: Promise) -> list[int]:
    """Return the statuses of refusals: those named, and those of every route of its kind."""
    if promise.is_open:
        return sorted(promise.errors)
    always = {400, 401} | ({413} if promise.body is not None else set())
    return sorted({*promise.errors, *always})


def _response(status: int, content: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status == 413:
        described["description"] += f": more than {BODY_SIZE_MAX} bytes"
    if content:
        described["content"] = content
    return described
