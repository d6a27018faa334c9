"""Bodies of requests: read, or refused by a typed error."""

import msgspec
import pytest
from starlette.requests import Request

from shem.api.kit import read_json
from shem.kernel.errors import ShemError
from shem.rest.errors import ApiError, error_of_answer
from shem.rest.transport import decode


class Body(msgspec.Struct):
    name: str


def request_with(body):
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", b"application/json")],
    }
    return Request(scope, receive)


async def test_body_is_read():
    assert await read_json(request_with(b'{"name": "x"}'), Body) == Body("x")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"name": 1}', b'{"name": "\xff"}'])
async def test_malformed_body_is_the_callers_fault(body):
    with pytest.raises(ShemError) as raised:
        await read_json(request_with(body), Body)

    assert raised.value.status == 400


@pytest.mark.parametrize("body", [b"", b"{", b'{"name": "\xff"}'])
def test_malformed_answer_is_an_error_of_the_api(body):
    with pytest.raises(ApiError, match="unexpected form"):
        decode(Body, "GET /x", body)


def test_malformed_error_body_is_told_as_text():
    assert error_of_answer("GET /x", 500, b'{"message": "\xff"}').status == 500
