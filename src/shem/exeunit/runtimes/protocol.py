"""The ya-runtime-api: what a supervisor and a runtime binary say to each other over stdio.

Pure, for both ends (docs/protocol/activity-exeunit.md §9.3). Each message is a protobuf prefixed by
its length as a varint. What is malformed is a WireError; what is merely unknown decodes as None, so
that either end can say that it does not know it.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from shem.wire.errors import WireError
from shem.wire.protobuf import (
    FIXED_64,
    VARINT_BYTES_MAX,
    Fields,
    parse,
    put_flag,
    put_message,
    put_raw,
    put_text,
    put_uint,
    read_varint,
    varint,
)

FRAME_SIZE_MAX: Final = 8 << 20
VERSION: Final = "0.1.0"
"""Of the protocol, as a supervisor says it."""


class Fault(IntEnum):
    """Codes of a Failure."""

    INTERNAL = 0
    NOT_FOUND = 1
    BAD_REQUEST = 2


@dataclass(frozen=True, slots=True)
class Hello:
    """Both ways: the version of the protocol; a runtime answers with its own."""

    version: str


@dataclass(frozen=True, slots=True)
class RunProcess:
    """Start a program; `args` begins with the name that it is called by."""

    binary: str
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KillProcess:
    """Send a signal to a program."""

    pid: int
    signal: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Both ways: end the service; it ends."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that was not fulfilled."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Running:
    """The answer to RunProcess."""

    pid: int


@dataclass(frozen=True, slots=True)
class Killed:
    """The answer to KillProcess."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """An event: output of a program, or its end (`running` false)."""

    pid: int
    running: bool
    return_code: int = 0
    stdout: bytes = b""
    stderr: bytes = b""


@dataclass(frozen=True, slots=True)
class Counter:
    """An event: the new value of a usage counter."""

    name: str
    value: float


Command = Hello | RunProcess | KillProcess | Shutdown
Reply = Failure | Hello | Running | Killed | Shutdown
Event = ProcessStatus | Counter


@dataclass(frozen=True, slots=True)
class Request:
    """What the supervisor sends."""

    id: int
    command: Command | None
    """None: a command that this module does not know, a VPN for instance."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a runtime answers to the request of this id."""

    id: int
    reply: Reply | None


@dataclass(frozen=True, slots=True)
class Told:
    """What a runtime says unasked."""

    event: Event | None


def encode_request(request: Request) -> bytes:
    """Return a request with its length."""
    return _framed(put_uint(1, request.id) + _encode_command(request.command))


def decode_request(data: bytes) -> Request:
    """Read one request without its length."""
    fields = parse(data)
    return Request(fields.uint(1), _decode_command(fields))


def encode_response(response: Answer | Told) -> bytes:
    """Return an answer or an event with its length."""
    if isinstance(response, Told):
        return _framed(put_flag(1, True) + _encode_event(response.event))
    return _framed(put_uint(2, response.id) + _encode_reply(response.reply))


def decode_response(data: bytes) -> Answer | Told:
    """Read one answer or event without its length."""
    fields = parse(data)
    if fields.flag(1):
        return Told(_decode_event(fields))
    return Answer(fields.uint(2), _decode_reply(fields))


class FrameReader:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; return the messages that are complete now."""
        self._buffer += data
        frames: list[bytes] = []
        at = 0
        while (span := self._next(at)) is not None:
            start, at = span
            frames.append(bytes(self._buffer[start:at]))
        del self._buffer[:at]
        return frames

    def _next(self, at: int) -> tuple[int, int] | None:
        head = bytes(self._buffer[at : at + VARINT_BYTES_MAX])
        if not any(byte < 0x80 for byte in head) and len(head) < VARINT_BYTES_MAX:
            return None
        size, used = read_varint(head, 0)
        if size > FRAME_SIZE_MAX:
            raise WireError(f"a runtime message of {size} bytes")
        end = at + used + size
        return (at + used, end) if end <= len(self._buffer) else None


def _framed(message: bytes) -> bytes:
    return varint(len(message)) + message


def _encode_command(command: Command | None) -> bytes:
    match command:
        case Hello(version):
            return put_message(2, put_text(1, version))
        case RunProcess(binary, args):
            listed = b"".join(put_message(2, arg.encode()) for arg in args)
            return put_message(10, put_text(1, binary) + listed)
        case KillProcess(pid, signal):
            return put_message(11, put_uint(1, pid) + put_uint(2, signal))
        case Shutdown():
            return put_message(12, b"")
        case None:
            return b""


def _decode_command(fields: Fields) -> Command | None:
    if (hello := fields.message(2)) is not None:
        return Hello(hello.text(1))
    if (run := fields.message(10)) is not None:
        return RunProcess(run.text(1), tuple(run.every_text(2)))
    if (kill := fields.message(11)) is not None:
        return KillProcess(kill.uint(1), kill.int32(2))
    return Shutdown() if 12 in fields else None


def _encode_reply(reply: Reply | None) -> bytes:
    match reply:
        case Failure(code, message):
            return put_message(3, put_uint(1, code) + put_text(2, message))
        case Hello(version):
            return put_message(4, put_text(1, version))
        case Running(pid):
            return put_message(10, put_uint(1, pid))
        case Killed():
            return put_message(11, b"")
        case Shutdown():
            return put_message(12, b"")
        case None:
            return b""


def _decode_reply(fields: Fields) -> Reply | None:
    if (failure := fields.message(3)) is not None:
        return Failure(failure.int32(1), failure.text(2))
    if (hello := fields.message(4)) is not None:
        return Hello(hello.text(1))
    if (run := fields.message(10)) is not None:
        return Running(run.uint(1))
    if 11 in fields:
        return Killed()
    return Shutdown() if 12 in fields else None


def _encode_event(event: Event | None) -> bytes:
    match event:
        case ProcessStatus():
            fields = put_uint(1, event.pid) + put_flag(2, event.running)
            fields += put_uint(3, event.return_code)
            return put_message(20, fields + put_raw(4, event.stdout) + put_raw(5, event.stderr))
        case Counter(name, value):
            number = varint(2 << 3 | FIXED_64) + struct.pack("<d", value)
            return put_message(21, put_message(2, put_text(1, name) + number))
        case None:
            return b""


def _decode_event(fields: Fields) -> Event | None:
    if (status := fields.message(20)) is not None:
        return ProcessStatus(
            pid=status.uint(1),
            running=status.flag(2),
            return_code=status.int32(3),
            stdout=status.raw(4),
            stderr=status.raw(5),
        )
    runtime = fields.message(21)
    counter = runtime.message(2) if runtime is not None else None
    if counter is None:
        return None
    return Counter(counter.text(1), _double(counter.uint(2)))


def _double(bits: int) -> float:
    [value] = struct.unpack("<d", bits.to_bytes(8, "little"))
    return float(value)
