"""What the demo takes for kept, and how it says what it cannot show."""

from pathlib import Path
from typing import Any

import pytest

from shem.devnet import counter, image, namespace
from shem.devnet.counter import Kind
from shem.devnet.demo import Demo, in_time
from shem.devnet.promises import Check
from shem.devnet.served import PAUSE_MAX_S, Served
from shem.devnet.telling import Terminal
from shem.sdk.batch import CommandResult
from shem.sdk.errors import CommandFailed


def served(kind: Kind = Kind.CONTAINER) -> Served:
    return Served(kind, "http://198.18.4.1/x", "sha3:00", Path("service.ticket"))


def says(**changes: Any) -> dict[str, Any]:
    return {"starts": 1, "asked": 1, "ran_s": 30, "pause_s": 1, **changes}


def result(stdout: str, *, ok: bool = True) -> CommandResult:
    return CommandResult(
        batch_id="b", index=0, ok=ok, stdout=stdout, stderr="", message=None, at="", last=True
    )


def test_a_service_that_remembers_every_question_is_believed():
    service = served()

    assert service.heard(says()) == (
        "started once, asked once; ran for 30 s, longest pause 1 s",
        True,
    )
    assert service.heard(says(asked=2))[1]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"starts": 2}, id="it was started again"),
        pytest.param({"asked": 2}, id="somebody asked twice"),
        pytest.param({"asked": 0}, id="it forgot"),
        pytest.param({"pause_s": PAUSE_MAX_S + 1}, id="it stood still"),
    ],
)
def test_a_service_that_was_not_there_all_along_breaks_the_promise(changes):
    assert not served().heard(says(**changes))[1]


def test_a_stand_in_without_a_clock_only_counts():
    assert served(Kind.WASM).heard(says(ran_s=None, pause_s=None)) == (
        "started once, asked once",
        True,
    )


def test_what_the_service_says_is_read():
    ledger = f"{counter.STARTED}\nsomething else\n{counter.ASKED}\n{counter.ASKED}\n"

    assert counter.answer(Kind.CONTAINER, [result("1 3 42 1\n")]) == counter.Told(1, 3, 42, 1)
    assert counter.answer(Kind.WASM, [result(""), result(ledger)]) == counter.Told(1, 2)


def test_a_question_that_failed_is_no_answer():
    with pytest.raises(CommandFailed):
        counter.answer(Kind.CONTAINER, [result("1 1 1 1", ok=False)])


@pytest.mark.parametrize(
    ("kept", "all_kept"), [(True, True), (None, True), (False, False)], ids=["yes", "–", "no"]
)
def test_only_a_broken_promise_fails_the_demo(capsys, kept, all_kept):
    checks = [Check("first", "seen", True, "1.1"), Check("other", "not shown here: x", kept, "1.3")]
    demo = Demo(Path(), Terminal(), keep=False, checks=checks, complete=True)

    demo.terminal.table(checks)

    assert demo.kept == all_kept
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "not shown" in line]
    assert row.rstrip(" |").endswith({True: "yes", None: "–", False: "NO"}[kept])


def test_a_demo_that_was_not_told_to_its_end_kept_nothing():
    checks = [Check("first", "seen", True)]

    assert not Demo(Path(), Terminal(), keep=False, checks=checks).kept


@pytest.mark.parametrize(
    ("seconds", "load", "kept"),
    [(40.0, 0.5, True), (40.0, 9.0, True), (70.0, 0.9, False), (70.0, 4.0, None)],
)
def test_a_busy_machine_excuses_slowness_and_nothing_else_does(seconds, load, kept):
    check = in_time(seconds, load)

    assert check.kept is kept
    assert f"{seconds:.1f} s" in check.seen


def test_without_root_there_are_no_hosts(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    assert namespace.obstacle() == "network namespaces need root"


def test_without_a_tun_device_there_are_no_hosts(monkeypatch, tmp_path):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(namespace, "TUN", tmp_path / "tun")

    assert namespace.obstacle() == f"there is no {tmp_path / 'tun'}"


def test_all_that_is_missing_for_a_container_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(image, "BUSYBOX", tmp_path / "busybox")

    assert image.obstacle() == "not installed: bubblewrap, busybox-static, squashfs-tools"


def test_a_busybox_that_needs_libraries_is_not_taken(monkeypatch, tmp_path):
    linked = tmp_path / "busybox"
    linked.write_bytes(b"\x7fELF" + bytes(300) + b"/lib64/ld-linux-x86-64.so.2\0")
    monkeypatch.setattr(image, "BUSYBOX", linked)

    assert "busybox-static" in (image.obstacle() or "")
