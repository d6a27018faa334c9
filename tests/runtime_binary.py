#!/usr/bin/env python3
"""A small runtime, written from the protocol's tables alone (activity-exeunit.md §9.1–§9.4).

It shares no code with shem: messages are made by Google's protobuf library from the schema below.
`write_runtime` makes it an executable; its argument `service` or `process` chooses the mode.
"""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELD = descriptor_pb2.FieldDescriptorProto
KINDS = {
    "u64": FIELD.TYPE_UINT64,
    "i32": FIELD.TYPE_INT32,
    "bool": FIELD.TYPE_BOOL,
    "str": FIELD.TYPE_STRING,
    "bytes": FIELD.TYPE_BYTES,
    "f64": FIELD.TYPE_DOUBLE,
}
SCHEMA: dict[str, list[tuple[int, str, str]]] = {
    "Hello": [(1, "version", "str")],
    "Run": [(1, "bin", "str"), (2, "args", "str*"), (3, "work_dir", "str")],
    "Kill": [(1, "pid", "u64"), (2, "signal", "i32")],
    "Nothing": [],
    "Pid": [(1, "pid", "u64")],
    "Error": [(1, "code", "i32"), (2, "message", "str")],
    "Counter": [(1, "name", "str"), (2, "value", "f64")],
    "RtStatus": [(2, "counter", "Counter")],
    "Status": [
        (1, "pid", "u64"),
        (2, "running", "bool"),
        (3, "return_code", "i32"),
        (4, "stdout", "bytes"),
        (5, "stderr", "bytes"),
    ],
    "Request": [
        (1, "id", "u64"),
        (2, "hello", "Hello"),
        (10, "run", "Run"),
        (11, "kill", "Kill"),
        (12, "shutdown", "Nothing"),
    ],
    "Response": [
        (1, "event", "bool"),
        (2, "id", "u64"),
        (3, "error", "Error"),
        (4, "hello", "Hello"),
        (10, "run", "Pid"),
        (11, "kill", "Nothing"),
        (12, "shutdown", "Nothing"),
        (20, "status", "Status"),
        (21, "rt_status", "RtStatus"),
    ],
}


def load_schema() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, field_name, kind in fields:
            field = message.field.add(name=field_name, number=number)
            field.label = FIELD.LABEL_REPEATED if kind.endswith("*") else FIELD.LABEL_OPTIONAL
            if kind.rstrip("*") in KINDS:
                field.type = KINDS[kind.rstrip("*")]
            else:
                field.type, field.type_name = FIELD.TYPE_MESSAGE, f".t.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"t.{name}")) for name in SCHEMA}


MESSAGES = load_schema()


def write_runtime(directory: Path) -> Path:
    """Make an executable runtime in a directory."""
    path = directory / "ya-runtime-small"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).absolute()} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def tell(path: Path, text: str) -> None:
    """Write a file that is there only when it is whole."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


class Service:
    """Serves requests on stdin."""

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir
        self.next_pid = 100
        self.sleeping: dict[int, threading.Event] = {}
        self.writing = threading.Lock()

    def say(self, **fields: Any) -> None:
        data = MESSAGES["Response"](**fields).SerializeToString()
        size, head = len(data), bytearray()
        while size > 0x7F:
            head.append(size & 0x7F | 0x80)
            size >>= 7
        head.append(size)
        with self.writing:
            sys.stdout.buffer.write(bytes(head) + data)
            sys.stdout.buffer.flush()

    def status(self, pid: int, **fields: Any) -> None:
        self.say(event=True, status=MESSAGES["Status"](pid=pid, **fields))

    def serve(self) -> None:
        while (request := self.read()) is not None:
            kind = next(
                name for name in ("hello", "run", "kill", "shutdown") if request.HasField(name)
            )
            getattr(self, f"on_{kind}")(request)

    def read(self) -> Any:
        size = shift = 0
        while True:
            byte = sys.stdin.buffer.read(1)
            if not byte:
                return None
            size |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80:
                break
        request = MESSAGES["Request"]()
        request.ParseFromString(sys.stdin.buffer.read(size))
        return request

    def on_hello(self, request: Any) -> None:
        if "--unfriendly" in sys.argv:
            self.say(id=request.id, error=MESSAGES["Error"](code=0, message="no hello today"))
            return
        self.status(7, running=True, stdout=b"booted ")
        self.say(id=request.id, hello=MESSAGES["Hello"](version="0.5.2"))

    def on_kill(self, request: Any) -> None:
        waiting = self.sleeping.get(request.kill.pid)
        if waiting is None:
            self.say(id=request.id, error=MESSAGES["Error"](code=1, message="no such process"))
            return
        self.say(id=request.id, kill=MESSAGES["Nothing"]())
        waiting.set()

    def on_shutdown(self, request: Any) -> None:
        tell(self.work_dir / "shut-down", "asked")
        if (self.work_dir / "stubborn").exists():
            return
        self.say(id=request.id, shutdown=MESSAGES["Nothing"]())
        os._exit(0)

    def on_run(self, request: Any) -> None:
        pid, self.next_pid = self.next_pid, self.next_pid + 1
        name, args = request.run.bin, list(request.run.args)
        if name == "/early":
            self.status(pid, running=True, stdout=b"before ")
        if name == "/refuse":
            self.say(id=request.id, error=MESSAGES["Error"](code=2, message="not this one"))
            return
        self.say(id=request.id, run=MESSAGES["Pid"](pid=pid))
        threading.Thread(target=self.execute, args=(pid, name, args), daemon=True).start()

    def execute(self, pid: int, name: str, args: list[str]) -> None:
        code = 0
        if name == "/echo":
            self.status(pid, running=True, stdout=" ".join(args).encode())
            self.status(pid, running=True, stderr=b"said")
        elif name == "/exit":
            code = int(args[1])
        elif name == "/early":
            self.status(pid, running=True, stdout=b"after")
        elif name == "/flood":
            for _ in range(int(args[1])):
                self.status(pid, running=True, stdout=b"x" * 65_536)
        elif name == "/count":
            counter = MESSAGES["Counter"](name=args[1], value=float(args[2]))
            self.say(event=True, rt_status=MESSAGES["RtStatus"](counter=counter))
        elif name == "/sleep":
            child = subprocess.Popen(["sleep", "1000"])
            tell(self.work_dir / "child", str(child.pid))
            self.sleeping[pid] = threading.Event()
            tell(self.work_dir / "sleeping", str(os.getpid()))
            self.sleeping[pid].wait()
            child.kill()
            code = -9
        elif name == "/die":
            os._exit(int(args[1]))
        elif name == "/garble":
            with self.writing:
                sys.stdout.buffer.write(b"\xff" * 64)
                sys.stdout.buffer.flush()
            time.sleep(60)
        elif name == "/write":
            (self.work_dir / args[1]).write_text(args[2])
        self.status(pid, running=False, return_code=code)


def run_process(work_dir: Path, entry_point: str, args: list[str]) -> int:
    """One process for one command."""
    if entry_point == "echo":
        sys.stdout.write(" ".join(args))
        sys.stderr.write("said")
        return 0
    if entry_point == "exit":
        return int(args[0])
    if entry_point == "leave":  # something behind that holds the output open
        child = subprocess.Popen(["sleep", "1000"])
        tell(work_dir / "child", str(child.pid))
        sys.stdout.write("left")
        return 0
    if entry_point == "sleep":
        child = subprocess.Popen(["sleep", "1000"])
        if args == ["stubborn"]:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tell(work_dir / "child", str(child.pid))
        tell(work_dir / "sleeping", str(os.getpid()))
        time.sleep(1_000)
    return 9


def main(words: list[str]) -> int:
    if words[-1] == "offer-template":
        properties = {"golem.runtime.capabilities": ["small"], "golem.inf.cpu.vendor": "none"}
        sys.stdout.write(json.dumps({"properties": properties, "constraints": "(golem.x=1)"}))
        return 0
    if words[-1] == "test":
        sys.stdout.write("small and well")
        return 3 if "ill" in words else 0
    work_dir = Path(words[words.index("--workdir") + 1])
    with (work_dir / "calls").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    if "deploy" in words:
        (work_dir / "vol-1").mkdir(exist_ok=True)
        mode = "blocking" if "service" in words else "empty"
        reply = {"valid": {"Ok": ""}, "vols": [{"name": "vol-1", "path": "/in"}], "startMode": mode}
        sys.stderr.write("deploying")
        sys.stdout.write("ready now: " + json.dumps(reply))
        return 5 if "undeployable" in words else 0
    if "start" in words and "service" in words:
        if "unstartable" in words:
            return 6
        with contextlib.suppress(BrokenPipeError):
            Service(work_dir).serve()
        return 0
    if "start" in words:
        return 7 if "unstartable" in words else 0
    entry_point = words[words.index("--entrypoint") + 1]
    return run_process(work_dir, entry_point, words[words.index("--", 1) + 1 :])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
