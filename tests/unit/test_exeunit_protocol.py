"""The ya-runtime-api: our codec against the recorded frames and against Google's protobuf."""

import json
from pathlib import Path
from typing import Any

import pytest

from shem.exeunit.runtimes.protocol import (
    FRAME_SIZE_MAX,
    Answer,
    Counter,
    Failure,
    FrameReader,
    Hello,
    Killed,
    KillProcess,
    ProcessStatus,
    Request,
    Running,
    RunProcess,
    Shutdown,
    Told,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from shem.wire.errors import WireError
from shem.wire.protobuf import varint
from tests.runtime_binary import MESSAGES

VECTORS = Path(__file__).parent.parent / "vectors" / "activity_messages.json"
FRAMES = {
    frame["name"]: bytes.fromhex(frame["hex"])
    for frame in json.loads(VECTORS.read_text())["runtime_frames"]
}
REQUESTS = {
    'Request 2 Hello "0.1.0"': Request(2, Hello("0.1.0")),
    'Request 3 Run /bin/sh [sh,-c,"echo hi"]': Request(
        3, RunProcess("/bin/sh", ("sh", "-c", "echo hi"))
    ),
    "Request 5 Shutdown": Request(5, Shutdown()),
    "Request 6 Kill pid 100 signal 15": Request(6, KillProcess(100, 15)),
}
RESPONSES = {
    'Response 2 Hello "0.5.2"': Answer(2, Hello("0.5.2")),
    "Response 3 Run pid 100": Answer(3, Running(100)),
    'Event pid 100 running, stdout "hi\\n"': Told(ProcessStatus(100, True, stdout=b"hi\n")),
    "Event pid 100 exited, code 3": Told(ProcessStatus(100, False, 3)),
    "Event counter golem.usage.custom = 1.5": Told(Counter("golem.usage.custom", 1.5)),
    'Response 4 Error INTERNAL "x"': Answer(4, Failure(0, "x")),
    "Response 5 Shutdown": Answer(5, Shutdown()),
}


def test_all_frames_of_the_table_are_here() -> None:
    assert FRAMES.keys() == REQUESTS.keys() | RESPONSES.keys()


@pytest.mark.parametrize("name", list(REQUESTS))
def test_requests_are_the_tables_bytes(name: str) -> None:
    assert encode_request(REQUESTS[name]) == FRAMES[name]
    [frame] = FrameReader().feed(FRAMES[name])
    assert decode_request(frame) == REQUESTS[name]


@pytest.mark.parametrize("name", list(RESPONSES))
def test_responses_are_the_tables_bytes(name: str) -> None:
    assert encode_response(RESPONSES[name]) == FRAMES[name]
    [frame] = FrameReader().feed(FRAMES[name])
    assert decode_response(frame) == RESPONSES[name]


@pytest.mark.parametrize("code", [0, 1, 255, -1, -9, 2**31 - 1, -(2**31)])
def test_exit_codes_keep_their_sign(code: int) -> None:
    status = MESSAGES["Status"](pid=1, return_code=code)
    theirs = MESSAGES["Response"](event=True, status=status).SerializeToString()

    assert decode_response(theirs) == Told(ProcessStatus(1, False, code))
    [ours] = FrameReader().feed(encode_response(Told(ProcessStatus(1, False, code))))
    read: Any = MESSAGES["Response"]()
    read.ParseFromString(ours)
    assert read.status.return_code == code


def test_empty_arguments_are_kept() -> None:
    [ours] = FrameReader().feed(encode_request(Request(1, RunProcess("x", ("x", "", "y")))))
    read: Any = MESSAGES["Request"]()
    read.ParseFromString(ours)

    assert list(read.run.args) == ["x", "", "y"]
    assert decode_request(ours) == Request(1, RunProcess("x", ("x", "", "y")))


def test_frames_are_found_however_the_bytes_come() -> None:
    sent = b"".join(FRAMES.values()) + encode_response(
        Told(ProcessStatus(1, True, stdout=b"z" * 300))
    )
    reader = FrameReader()

    found = [frame for at in range(len(sent)) for frame in reader.feed(sent[at : at + 1])]

    assert found == FrameReader().feed(sent)
    assert len(found) == len(FRAMES) + 1


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 10, varint(FRAME_SIZE_MAX + 1), varint(2**63)],
    ids=["endless", "big", "huge"],
)
def test_unbelievable_lengths_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        FrameReader().feed(data)


def test_what_is_unknown_is_told_apart_from_what_is_broken() -> None:
    assert decode_request(bytes.fromhex("0807f20100")) == Request(7, None)
    assert decode_response(bytes.fromhex("1007f20100")) == Answer(7, None)
    assert decode_response(bytes.fromhex("0801")) == Told(None)
    assert decode_response(encode_response(Answer(1, Killed()))[1:]) == Answer(1, Killed())
    with pytest.raises(WireError):
        decode_request(b"\x0a\xff")
