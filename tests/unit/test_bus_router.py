import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shem.bus.router import ADDRESS_SIZE_MAX, Bus
from shem.bus.types import Call, GsbError, Handler, NoSuchEndpoint, RemoteError, StreamHandler
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import Conflict, Denied, NotFound, ShemError, TimedOut, UsageError
from shem.kernel.ids import NodeId
from shem.wire.flexbuffers import dumps, loads

ME = Caller(NodeId("0x" + "1" * 40), Assurance.LOCAL)
STRANGER = Caller(NodeId("0x" + "2" * 40), Assurance.PROVEN)
ROUTING = json.loads((Path(__file__).parents[1] / "vectors/gsb_frames.json").read_text())["routing"]


def answering(text: bytes) -> Handler:
    async def handler(call: Call) -> bytes:
        return text + b"|" + call.address.encode()

    return handler


async def counting(call: Call) -> AsyncIterator[bytes]:
    for item in (b"1", b"2", b"3"):
        yield item


async def silent(call: Call) -> bytes:
    await asyncio.Event().wait()
    return b""


@pytest.mark.parametrize(
    "case", ROUTING, ids=lambda case: f"{case['registered']} {case['address']}"
)
async def test_a_call_reaches_the_longest_prefix_as_in_the_real_router(case: dict) -> None:
    bus = Bus()
    for prefix in filter(None, case["registered"]):
        bus.bind(prefix, answering(prefix.encode()))

    if case["delivered_to"] is None:
        with pytest.raises(NoSuchEndpoint, match="endpoint address not found"):
            await bus.call(ME, case["address"], b"", timeout_s=1)
    else:
        answer = await bus.call(ME, case["address"], b"", timeout_s=1)
        assert answer.decode() == f"{case['delivered_to']}|{case['delivered_address']}"


async def test_a_prefix_is_bound_once_and_free_after_closing() -> None:
    bus = Bus()
    binding = bus.bind("/local/x", answering(b"first"))
    with pytest.raises(Conflict):
        bus.bind("/local/x", answering(b"second"))

    binding.close()
    with bus.bind("/local/x", answering(b"third")):
        binding.close()  # a late repeat must not take the new owner's address away
        assert (await bus.call(ME, "/local/x", b"", timeout_s=1)).startswith(b"third")

    assert not bus.is_bound("/local/x")


@pytest.mark.parametrize("prefix", ["", "/" + "x" * ADDRESS_SIZE_MAX])
def test_an_unusable_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(UsageError):
        Bus().bind(prefix, silent)


async def test_an_overlong_address_is_refused_before_it_is_looked_up() -> None:
    with pytest.raises(GsbError, match="too long"):
        await Bus().call(ME, "/a" * ADDRESS_SIZE_MAX, b"", timeout_s=1)


async def test_a_call_that_gets_no_answer_times_out() -> None:
    bus = Bus()
    bus.bind("/local/silent", silent)

    with pytest.raises(TimedOut, match="Timeout calling `/local/silent/X` service"):
        await bus.call(ME, "/local/silent/X", b"", timeout_s=0.01)


async def test_a_time_out_inside_of_a_service_is_not_taken_for_the_callers_own() -> None:
    async def failing(call: Call) -> bytes:
        raise TimeoutError

    bus = Bus()
    bus.bind("/local/x", failing)

    with pytest.raises(TimeoutError):
        await bus.call(ME, "/local/x", b"", timeout_s=5)


async def test_a_stream_yields_its_items_and_ends() -> None:
    bus = Bus()
    bus.bind_stream("/local/numbers", counting)

    assert [i async for i in bus.stream(ME, "/local/numbers", b"", timeout_s=1)] == [
        b"1",
        b"2",
        b"3",
    ]


async def test_a_stream_of_one_is_what_a_single_answer_looks_like() -> None:
    bus = Bus()
    bus.bind("/local/one", answering(b"x"))

    assert [i async for i in bus.stream(ME, "/local/one", b"", timeout_s=1)] == [b"x|/local/one"]


async def test_a_call_to_a_streaming_service_fails() -> None:
    bus = Bus()
    bus.bind_stream("/local/numbers", counting)

    with pytest.raises(GsbError, match="streaming response"):
        await bus.call(ME, "/local/numbers", b"", timeout_s=1)


async def test_leaving_a_stream_ends_its_service_too() -> None:
    ended = asyncio.Event()

    async def endless(call: Call) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            ended.set()

    bus = Bus()
    bus.bind_stream("/local/endless", endless)
    stream = bus.stream(ME, "/local/endless", b"", timeout_s=1)
    await anext(stream)
    await stream.aclose()

    await asyncio.wait_for(ended.wait(), 1)


async def test_a_silent_stream_times_out() -> None:
    async def stuck(call: Call) -> AsyncIterator[bytes]:
        yield b"1"
        await asyncio.Event().wait()

    bus = Bus()
    bus.bind_stream("/local/stuck", stuck)
    seen = []

    with pytest.raises(TimedOut):
        async for item in bus.stream(ME, "/local/stuck", b"", timeout_s=0.01):
            seen.append(item)  # noqa: PERF401 - what came before the error counts
    assert seen == [b"1"]


async def test_a_push_wants_no_answer_and_no_listener() -> None:
    seen = []

    async def listening(call: Call) -> bytes:
        seen.append((call.data, call.no_reply))
        raise NotFound("nothing here")

    bus = Bus()
    bus.bind("/local/ears", listening)

    await bus.push(ME, "/local/ears", b"hi")
    await bus.push(ME, "/local/nobody", b"hi")
    assert seen == [(b"hi", True)]


async def test_values_travel_as_documents() -> None:
    async def double(call: Call, body: object) -> object:
        assert isinstance(body, int)
        return body * 2

    bus = Bus()
    bus.serve("/local/math/Double", double)

    assert await bus.request(ME, "/local/math/Double", 21, timeout_s=1) == 42
    raw = await bus.call(ME, "/local/math/Double", dumps(2), timeout_s=1)
    assert loads(raw) == {"Ok": 4}


async def test_a_services_refusal_is_told_apart_from_a_broken_call() -> None:
    async def refuse(call: Call, body: object) -> object:
        raise NotFound("no such thing")

    async def break_down(call: Call, body: object) -> object:
        raise GsbError("broken")

    def as_code(error: ShemError) -> object:
        return {"code": error.status, "message": error.message}

    bus = Bus()
    bus.serve("/local/a/Refuse", refuse, error=as_code)
    bus.serve("/local/a/Break", break_down)

    with pytest.raises(RemoteError) as refusal:
        await bus.request(ME, "/local/a/Refuse", None, timeout_s=1)
    assert refusal.value.payload == {"code": 404, "message": "no such thing"}
    with pytest.raises(GsbError, match="broken"):
        await bus.request(ME, "/local/a/Break", None, timeout_s=1)


async def test_a_request_that_is_no_document_fails_before_the_service_sees_it() -> None:
    async def unreached(call: Call, body: object) -> object:
        raise AssertionError

    bus = Bus()
    bus.serve("/local/a/B", unreached)

    with pytest.raises(GsbError, match="Bad content"):
        await bus.call(ME, "/local/a/B", b"\xff\xff", timeout_s=1)


@pytest.mark.parametrize("answer", [b"", b"\xff", dumps(5), dumps({"Ok": 1, "Err": 2}), dumps({})])
async def test_an_answer_that_is_no_result_is_an_error(answer: bytes) -> None:
    async def handler(call: Call) -> bytes:
        return answer

    bus = Bus()
    bus.bind("/local/odd", handler)

    with pytest.raises(GsbError):
        await bus.request(ME, "/local/odd", None, timeout_s=1)


async def test_a_guard_decides_over_every_call_under_its_prefix() -> None:
    async def guard(call: Call, forward: Handler) -> bytes:
        if not call.caller.is_local:
            raise Denied("not yours")
        return b"guarded " + await forward(call)

    bus = Bus()
    bus.bind("/public/exeunit/1", answering(b"unit"))
    bus.guard("/public/exeunit", guard)

    answer = await bus.call(ME, "/public/exeunit/1/Exec", b"", timeout_s=1)
    assert answer == b"guarded unit|/public/exeunit/1/Exec"
    with pytest.raises(Denied):
        await bus.call(STRANGER, "/public/exeunit/1/Exec", b"", timeout_s=1)
    with pytest.raises(NoSuchEndpoint):
        await bus.call(ME, "/public/exeunit/2/Exec", b"", timeout_s=1)
    assert (await bus.call(ME, "/public/exeunit/1/Exec", b"", timeout_s=1, past_guard=True)) == (
        b"unit|/public/exeunit/1/Exec"
    )


async def test_a_guard_of_streams_sees_the_messages_it_names() -> None:
    async def guard(call: Call, forward: Handler) -> bytes:
        return await forward(call)

    async def stream_guard(call: Call, forward: StreamHandler) -> AsyncIterator[bytes]:
        yield b"0"
        async for item in forward(call):
            yield item

    bus = Bus()
    bus.bind_stream("/public/exeunit/1", counting)
    bus.guard("/public/exeunit", guard, stream_guard, streams=["StreamResults"])

    items = bus.stream(ME, "/public/exeunit/1/StreamResults", b"", timeout_s=1)
    assert [i async for i in items] == [b"0", b"1", b"2", b"3"]
    with pytest.raises(GsbError, match="streaming response"):
        await bus.call(ME, "/public/exeunit/1/Other", b"", timeout_s=1)


def test_a_stream_guard_without_messages_is_refused() -> None:
    async def guard(call: Call, forward: Handler) -> bytes:
        return b""

    with pytest.raises(UsageError):
        Bus().guard("/public/exeunit", guard, streams=["X"])


def test_listeners_hear_of_bindings_that_come_and_go_under_their_prefix() -> None:
    heard: list[str] = []
    bus = Bus()
    bus.on_bound("/public/exeunit", lambda prefix: heard.append(f"+{prefix}"))
    bus.on_unbound("/public/exeunit", lambda prefix: heard.append(f"-{prefix}"))

    unit = bus.bind("/public/exeunit/1", silent)
    bus.bind("/public/exeunits", silent)
    unit.close()
    unit.close()

    assert heard == ["+/public/exeunit/1", "-/public/exeunit/1"]
