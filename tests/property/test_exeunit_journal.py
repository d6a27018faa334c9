"""The journal gives back exactly what was made durable, wherever the writing was torn."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shem.exeunit import journal as journal_module
from shem.exeunit.journal import ROOM, Journal, Record, decode_records, encode_record
from shem.kernel.errors import Conflict, StorageFault

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=3,
)
RECORDS = st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=3), max_size=4)

THREE: list[Record] = [
    {"kind": "accepted", "batch": "b1", "script": [{"run": {"entry_point": "x"}}]},
    {"kind": "result", "stdout": "line\nline ü\n", "ok": True},
    {"kind": "state", "state": "Ready"},
]


@given(RECORDS)
def test_what_was_written_is_read(records: list[Record]) -> None:
    data = b"".join(map(encode_record, records))

    assert decode_records(data) == (records, len(data))


def test_torn_at_every_byte_only_the_torn_record_is_lost() -> None:
    lines = [encode_record(record) for record in THREE]
    data = b"".join(lines)
    ends = [sum(map(len, lines[:count])) for count in range(len(lines) + 1)]

    for size in range(len(data) + 1):
        whole = max(count for count, end in enumerate(ends) if end <= size)
        assert decode_records(data[:size]) == (THREE[:whole], ends[whole])


def test_garbage_in_place_of_the_last_record_is_a_torn_write() -> None:
    lines = [encode_record(record) for record in THREE]

    for garbage in (b"\0" * len(lines[2]), b"\xff\n\n\xff", lines[2][::-1]):
        records, size = decode_records(lines[0] + lines[1] + garbage)
        assert records == THREE[:2]
        assert size == len(lines[0] + lines[1])


def test_every_flipped_bit_before_the_end_is_damage_and_not_a_torn_write() -> None:
    lines = [encode_record(record) for record in THREE]
    data = b"".join(lines)

    for position in range(len(lines[0] + lines[1])):
        damaged = bytearray(data)
        damaged[position] ^= 0x01
        with pytest.raises(StorageFault):
            decode_records(bytes(damaged))


def test_reopening_after_a_torn_write_goes_on_where_it_was_good(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    lines = [encode_record(record) for record in THREE]
    path.write_bytes(lines[0] + lines[1] + lines[2][:-3])

    first = Journal(path)
    assert first.open() == THREE[:2]
    first.append(THREE[2])
    first.close()

    second = Journal(path)
    assert second.open() == THREE
    second.close()


def test_two_processes_cannot_have_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Journal(path)
    first.open()

    with pytest.raises(Conflict):
        Journal(path).open()

    first.close()
    again = Journal(path)
    again.open()
    again.close()


def test_failed_write_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.open()
    journal.append(THREE[0])
    real_fsync = os.fsync
    failures = iter([OSError(28, "No space left on device")])

    def failing_fsync(handle: int) -> None:
        for error in failures:
            raise error
        real_fsync(handle)

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(journal_module.os, name, failing_fsync)
    with pytest.raises(StorageFault):
        journal.append(THREE[1])
    journal.append(THREE[2])
    journal.close()

    again = Journal(path)
    assert again.open() == [THREE[0], THREE[2]]
    again.close()


def test_a_journal_has_room_ahead_that_holds_no_records(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.open()
    journal.append(THREE[0])
    length = path.stat().st_size
    journal.append(THREE[1])
    assert path.stat().st_size == length
    died = path.read_bytes()
    journal.append({"kind": "x" * ROOM})
    assert path.stat().st_size > length
    journal.close()

    assert b"\0" not in path.read_bytes()
    path.write_bytes(died)
    again = Journal(path)
    assert again.open() == THREE[:2]
    again.append(THREE[2])
    again.close()
    assert path.read_bytes() == b"".join(map(encode_record, THREE))


def test_who_may_not_have_a_journal_leaves_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Journal(path)
    first.open()
    first.append(THREE[0])
    before = path.read_bytes()

    with pytest.raises(Conflict):
        Journal(path).open()
    assert path.read_bytes() == before
    first.close()

    path.write_bytes(b"nonsense\n" + encode_record(THREE[1]))
    with pytest.raises(StorageFault):
        Journal(path).open()
    assert path.read_bytes() == b"nonsense\n" + encode_record(THREE[1])


@pytest.mark.parametrize("goes_on", [True, False])
def test_nothing_is_written_before_a_failed_write_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.open()
    journal.append(THREE[0])

    def failing(*_: object) -> None:
        raise OSError(5, "Input/output error")

    for name in ("fsync", "fdatasync", "ftruncate"):
        monkeypatch.setattr(journal_module.os, name, failing)
    for _ in range(3):
        with pytest.raises(StorageFault):
            journal.append(THREE[1])
    written = path.read_bytes().rstrip(b"\0")
    assert written == encode_record(THREE[0]) + encode_record(THREE[1])
    monkeypatch.undo()
    if goes_on:
        journal.append(THREE[2])
    journal.close()

    again = Journal(path)
    assert again.open() == [THREE[0], THREE[2]][: 1 + goes_on]
    again.close()


def test_a_journal_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "JOURNAL_SIZE_MAX", 100)
    journal = Journal(tmp_path / "journal")
    journal.open()
    journal.append({"kind": "x"})

    with pytest.raises(StorageFault, match="100 bytes"):
        journal.append({"kind": "y" * 100})
    journal.close()
