"""A program's own notes: on disk before they count, held by one program, honest about damage."""

from pathlib import Path

import pytest

from shem.kernel.errors import Conflict, StorageFault, UsageError
from shem.sdk.journal import Journal, state_directory


def notes(directory: Path, name: str = "work") -> Journal:
    return Journal.open(directory, "map", "demo", name)


def test_entries_are_there_for_the_next_program(tmp_path: Path) -> None:
    with notes(tmp_path) as journal:
        assert journal.entries == []
        journal.add("done", input=1)
        journal.add("done", input=2, text="žluť\n")

    with notes(tmp_path) as again:
        assert again.entries == [
            {"kind": "done", "input": 1},
            {"kind": "done", "input": 2, "text": "žluť\n"},
        ]
    assert again.path.stat().st_mode & 0o077 == 0


def test_an_entry_is_on_disk_when_add_returns(tmp_path: Path) -> None:
    journal = notes(tmp_path)
    journal.add("done", input=1)
    assert journal.path.read_text().endswith('{"kind":"done","input":1}\n')
    journal.close()


@pytest.mark.parametrize("torn", [b"{", b'{"kind":"done","inp', b'{"kind":"done","input":2}'])
def test_a_last_line_that_a_crash_cut_off_does_not_count(tmp_path: Path, torn: bytes) -> None:
    with notes(tmp_path) as journal:
        journal.add("done", input=1)
    with journal.path.open("ab") as file:
        file.write(torn)

    with notes(tmp_path) as again:
        assert again.entries == [{"kind": "done", "input": 1}]
        again.add("done", input=3)
    with notes(tmp_path) as third:
        assert [entry["input"] for entry in third.entries] == [1, 3]


def test_one_program_at_a_time(tmp_path: Path) -> None:
    with (
        notes(tmp_path),
        pytest.raises(Conflict, match="another program is running map 'work'"),
    ):
        notes(tmp_path)
    notes(tmp_path).close()


def test_other_names_and_apps_have_notes_of_their_own(tmp_path: Path) -> None:
    with notes(tmp_path) as one, notes(tmp_path, "other") as two:
        assert one.path != two.path
    with Journal.open(tmp_path, "service", "demo/../x", "work") as three:
        assert three.path.parent == tmp_path


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-x", "x" * 65, "ä"])
def test_a_name_is_a_plain_word(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name"):
        notes(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", [b"[1]\n", b"nonsense\n", b"\xff\n"])
def test_damage_inside_is_said_and_not_skipped(tmp_path: Path, line: bytes) -> None:
    with notes(tmp_path) as journal:
        pass
    with journal.path.open("ab") as file:
        file.write(line)
    with pytest.raises(StorageFault, match="line 2 is damaged"):
        notes(tmp_path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with notes(tmp_path) as journal:
        pass
    journal.path.write_text('{"kind":"journal","version":2}\n')
    with pytest.raises(StorageFault, match="begins with"):
        notes(tmp_path)


def test_where_notes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHEM_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_directory() == tmp_path / "shem"
    monkeypatch.setenv("SHEM_STATE_DIR", "/x")
    assert state_directory() == Path("/x")
    assert state_directory("y") == Path("y")
