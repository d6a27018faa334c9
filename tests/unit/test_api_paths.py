"""Which route a request is for."""

import pytest
from starlette.routing import Route

from shem.api.paths import Paths


async def answer(_request: object) -> None: ...


def routes(*lines: str) -> list[Route]:
    made = []
    for line in lines:
        method, _, path = line.partition(" ")
        route = Route(path, answer, methods=[method], name=line)
        route.methods = {method}
        made.append(route)
    return made


PATHS = Paths(
    routes(
        "GET /a",
        "POST /a",
        "GET /a/{one}",
        "DELETE /a/{one}/x/{two}",
        "GET /a/word",
        "PUT /a/word/end",
        "GET /a/{one}/end",
        "GET /rest",
        "GET /rest/{tail:path}",
        "GET /a/{one}/proxy/{url:path}",
        "GET /a/{other}",
    )
)


@pytest.mark.parametrize(
    ("request_line", "found", "values"),
    [
        ("GET /a", "GET /a", {}),
        ("POST /a", "POST /a", {}),
        ("GET /a/7", "GET /a/{one}", {"one": "7"}),
        ("GET /a/word", "GET /a/word", {}),
        ("DELETE /a/1/x/2", "DELETE /a/{one}/x/{two}", {"one": "1", "two": "2"}),
        ("PUT /a/word/end", "PUT /a/word/end", {}),
        ("GET /a/word/end", "GET /a/{one}/end", {"one": "word"}),
        ("GET /rest", "GET /rest", {}),
        ("GET /rest/", "GET /rest/{tail:path}", {"tail": ""}),
        ("GET /rest/b/c/", "GET /rest/{tail:path}", {"tail": "b/c/"}),
        ("GET /a/1/proxy//x", "GET /a/{one}/proxy/{url:path}", {"one": "1", "url": "/x"}),
    ],
)
def test_a_request_finds_its_route_and_the_values_of_its_path(
    request_line: str, found: str, values: dict[str, str]
) -> None:
    method, _, path = request_line.partition(" ")

    answer = PATHS.find(method, path)

    assert answer is not None
    assert (answer[0].name, answer[1]) == (found, values)


@pytest.mark.parametrize(
    "request_line",
    ["GET /", "GET /b", "GET /a/", "PUT /a", "HEAD /a", "GET /a/1/x/2", "DELETE /a//x/2", "GET a"],
)
def test_a_request_for_nothing_finds_nothing(request_line: str) -> None:
    method, _, path = request_line.partition(" ")

    assert PATHS.find(method, path) is None


def test_of_two_routes_for_the_same_the_first_counts() -> None:
    first, second = routes("GET /x/{a}", "GET /x/{b}")

    assert Paths([first, second]).find("GET", "/x/1") == (first, {"a": "1"})
