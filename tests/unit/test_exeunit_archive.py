"""Archives: round trips in every format, and everything that a hostile one can hold."""

import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shem.exeunit.commands import FileSet, Format
from shem.exeunit.runtimes.base import RuntimeFault, Stopped
from shem.exeunit.transfer import archive as archive_module
from shem.exeunit.transfer.archive import Packing, pack, unpack
from shem.exeunit.transfer.budget import Budget
from shem.exeunit.transfer.fileset import Selection

ALL = Selection([FileSet()])
FILES = {
    "top.txt": b"top",
    "empty": b"",
    "d/inner.c": b"int main;",
    "d/e/deep.bin": bytes(range(256)) * 5_000,
    "name with spaces é": b"x",
}


def lay_out(directory: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def found_in(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def packed(directory: Path, kind: Format, archive: Path, **options: object) -> Path:
    selection = options.pop("selection", ALL)
    packing = Packing(kind, selection, **options)  # type: ignore[arg-type]
    handle = os.open(directory, os.O_RDONLY)
    try:
        pack(handle, packing, Budget(), archive)
    finally:
        os.close(handle)
    return archive


def unpacked(archive: Path, kind: Format, target: Path, budget: Budget | None = None) -> Path:
    target.mkdir(exist_ok=True)
    handle = os.open(target, os.O_RDONLY)
    try:
        with archive.open("rb") as file:
            unpack(file, kind, handle, budget or Budget(size_max=10 << 20, entries_max=1_000))
    finally:
        os.close(handle)
    return target


@pytest.mark.parametrize("kind", list(Format))
def test_a_directory_comes_back_as_it_went(tmp_path: Path, kind: Format) -> None:
    source = lay_out(tmp_path / "source", FILES)
    (source / "top.txt").chmod(0o750)

    archive = packed(source, kind, tmp_path / "archive")
    target = unpacked(archive, kind, tmp_path / "target")

    assert found_in(target) == FILES
    assert stat.S_IMODE((target / "top.txt").stat().st_mode) & 0o700 == 0o700


@pytest.mark.parametrize("kind", [Format.TAR, Format.TAR_GZ, Format.TAR_BZ2, Format.TAR_XZ])
def test_tars_are_those_of_everybody(tmp_path: Path, kind: Format) -> None:
    source = lay_out(tmp_path / "source", FILES)
    archive = packed(source, kind, tmp_path / "archive")

    with tarfile.open(archive) as tar:
        assert sorted(tar.getnames()) == sorted(FILES)
    made = tmp_path / "theirs"
    modes = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
    with tarfile.open(made, modes[kind]) as tar:  # type: ignore[call-overload]
        tar.add(source, arcname=".")

    assert found_in(unpacked(made, kind, tmp_path / "target")) == FILES


def test_a_stored_zip_is_not_compressed(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "source", {"a": b"a" * 100_000})

    sizes = {
        kind: packed(source, kind, tmp_path / kind).stat().st_size
        for kind in (Format.ZIP, Format.ZIP_STORED)
    }

    assert sizes[Format.ZIP] < 2_000
    assert sizes[Format.ZIP_STORED] > 100_000


@pytest.mark.parametrize(
    ("depth", "names"),
    [
        (0, ["empty", "name with spaces é", "top.txt"]),
        (1, ["d/inner.c", "empty", "name with spaces é", "top.txt"]),
        (None, sorted(FILES)),
    ],
)
def test_depth_counts_directories_below(
    tmp_path: Path, depth: int | None, names: list[str]
) -> None:
    source = lay_out(tmp_path / "source", FILES)

    archive = packed(source, Format.TAR, tmp_path / "archive", depth=depth)

    with tarfile.open(archive) as tar:
        assert sorted(tar.getnames()) == names


def test_only_what_the_fileset_takes_is_packed(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "source", FILES)
    chosen = Selection([FileSet(("**/*.c", "top.*"))])

    archive = packed(source, Format.ZIP, tmp_path / "archive", selection=chosen)

    with zipfile.ZipFile(archive) as found:
        assert sorted(found.namelist()) == ["d/inner.c", "top.txt"]


def test_links_and_pipes_of_a_program_are_not_followed(tmp_path: Path) -> None:
    secret = lay_out(tmp_path / "host", {"secret": b"the host's", "dir/secret": b"the host's"})
    source = lay_out(tmp_path / "source", {"plain": b"plain"})
    (source / "link").symlink_to(secret / "secret")
    (source / "linked").symlink_to(secret / "dir")
    os.mkfifo(source / "pipe")

    archive = packed(source, Format.TAR, tmp_path / "archive")
    with tarfile.open(archive) as tar:
        kinds = {member.name: member.type for member in tar}
    zipped = packed(source, Format.ZIP, tmp_path / "zipped")

    assert kinds == {
        "plain": tarfile.REGTYPE,
        "link": tarfile.SYMTYPE,
        "linked": tarfile.SYMTYPE,
    }
    assert b"the host's" not in archive.read_bytes()
    with zipfile.ZipFile(zipped) as found:
        assert found.namelist() == ["plain"]


def test_packing_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "source", FILES)
    handle = os.open(source, os.O_RDONLY)
    with pytest.raises(Stopped):
        pack(handle, Packing(Format.TAR, ALL), Budget(stopped=True), tmp_path / "archive")
    os.close(handle)


# ---- hostile archives ----------------------------------------------------------------------------


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in members:
            info.size = len(data) if info.isreg() else info.size
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def entry(name: str, data: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def zip_of(name: str, data: bytes = b"x", mode: int = 0o100644) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        made.writestr(info, data)
    return buffer.getvalue()


OUTSIDE = ["../evil", "/evil", "a/../../evil", "..", "a/../../../../../tmp/evil"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", [Format.TAR, Format.ZIP])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str, kind: Format) -> None:
    path = tmp_path / "archive"
    path.write_bytes(tar_of(entry(name)) if kind is Format.TAR else zip_of(name))
    before = sorted(tmp_path.parent.rglob("*evil*"))

    with pytest.raises(RuntimeFault, match="impossible name"):
        unpacked(path, kind, tmp_path / "target")

    assert sorted(tmp_path.parent.rglob("*evil*")) == before


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, b"", type=tarfile.SYMTYPE, linkname=target)


@pytest.mark.parametrize("through", ["link/evil", "link/sub/evil"])
def test_nothing_is_written_through_a_link_of_the_archive(tmp_path: Path, through: str) -> None:
    host = tmp_path / "host"
    (host / "sub").mkdir(parents=True)
    path = tmp_path / "archive"
    path.write_bytes(tar_of(symlink("link", str(host)), entry(through, b"evil")))

    with pytest.raises(RuntimeFault, match="IO error"):
        unpacked(path, Format.TAR, tmp_path / "target")

    assert found_in(host) == {}
    assert (tmp_path / "target" / "link").is_symlink()


def test_a_link_that_is_there_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    host = lay_out(tmp_path / "host", {"file": b"mine"})
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").symlink_to(host / "file")
    path = tmp_path / "archive"
    path.write_bytes(tar_of(entry("file", b"evil")))

    unpacked(path, Format.TAR, target)

    assert (host / "file").read_bytes() == b"mine"
    assert (target / "file").read_bytes() == b"evil"


@pytest.mark.parametrize("points_to", ["../../host/file", "/etc/passwd", "link"])
def test_a_hard_link_to_the_outside_is_refused(tmp_path: Path, points_to: str) -> None:
    host = lay_out(tmp_path / "host", {"file": b"mine"})
    path = tmp_path / "archive"
    hard = entry("hard", b"", type=tarfile.LNKTYPE, linkname=points_to)
    path.write_bytes(tar_of(symlink("link", str(host / "file")), hard))

    if points_to == "link":  # a second name of the link itself, which nobody follows
        assert (unpacked(path, Format.TAR, tmp_path / "target") / "hard").is_symlink()
    else:
        with pytest.raises(RuntimeFault, match="impossible name"):
            unpacked(path, Format.TAR, tmp_path / "target")
    assert (host / "file").stat().st_nlink == 1


def test_a_hard_link_inside_is_made(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    hard = entry("d/second", b"", type=tarfile.LNKTYPE, linkname="first")
    path.write_bytes(tar_of(entry("first", b"one"), hard))

    target = unpacked(path, Format.TAR, tmp_path / "target")

    assert found_in(target) == {"first": b"one", "d/second": b"one"}


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "archive"
    path.write_bytes(tar_of(entry("odd", b"", type=kind, devmajor=8)))

    with pytest.raises(RuntimeFault, match="device or a pipe"):
        unpacked(path, Format.TAR, tmp_path / "target")


def test_set_uid_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(tar_of(entry("program", b"x", mode=0o6755)))

    target = unpacked(path, Format.TAR, tmp_path / "target")

    assert stat.S_IMODE((target / "program").stat().st_mode) & ~0o777 == 0


def gz(data: bytes) -> bytes:
    return gzip.compress(data)


HOLES = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,0"}
BOMBS: dict[str, tuple[Format, Callable[[], bytes]]] = {
    "a large file, gzip": (Format.TAR_GZ, lambda: gz(tar_of(entry("big", bytes(50 << 20))))),
    "a large file, xz": (Format.TAR_XZ, lambda: lzma.compress(tar_of(entry("b", bytes(50 << 20))))),
    "a large file, zip": (Format.ZIP, lambda: zip_of("big", bytes(50 << 20))),
    "a file of holes": (Format.TAR, lambda: tar_of(entry("holes", b"", pax_headers=HOLES))),
    "many entries": (
        Format.TAR,
        lambda: tar_of(*(entry(f"{n}", b"") for n in range(1_001))),
    ),
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_bombs_are_stopped_by_what_they_hold(tmp_path: Path, name: str) -> None:
    kind, make = BOMBS[name]
    path = tmp_path / "bomb"
    path.write_bytes(make())

    with pytest.raises(RuntimeFault, match=r"allowed|at most|more than"):
        unpacked(path, kind, tmp_path / "target")

    assert sum(len(data) for data in found_in(tmp_path / "target").values()) <= 10 << 20


def test_a_header_that_wants_memory_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type = tarfile.XHDTYPE
    info.size = 100 << 20
    path = tmp_path / "archive"
    path.write_bytes(gz(info.tobuf() + bytes(100 << 20)))

    with pytest.raises(RuntimeFault, match="header of more than"):
        unpacked(path, Format.TAR_GZ, tmp_path / "target", Budget())


@pytest.mark.parametrize("zip64", [False, True])
def test_a_zip_with_a_monstrous_table_of_contents_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zip64: bool
) -> None:
    monkeypatch.setattr(archive_module, "DIRECTORY_SIZE_MAX", 1_000)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for number in range(70_000 if zip64 else 100):
            made.writestr(f"{number}", b"")
    path = tmp_path / "archive"
    path.write_bytes(buffer.getvalue())

    with pytest.raises(RuntimeFault, match="table of contents"):
        unpacked(path, Format.ZIP, tmp_path / "target", Budget())


@pytest.mark.parametrize("kind", list(Format))
@pytest.mark.parametrize("data", [b"", b"nonsense" * 100, b"PK\5\6" + b"\0" * 10])
def test_what_is_no_archive_is_refused(tmp_path: Path, kind: Format, data: bytes) -> None:
    path = tmp_path / "archive"
    path.write_bytes(data)

    with pytest.raises(RuntimeFault):
        unpacked(path, kind, tmp_path / "target")


@pytest.mark.parametrize("kind", list(Format))
def test_a_cut_archive_is_refused(tmp_path: Path, kind: Format) -> None:
    source = lay_out(tmp_path / "source", {"a": os.urandom(50_000), "b": b"b"})
    archive = packed(source, kind, tmp_path / "archive")
    archive.write_bytes(archive.read_bytes()[:30_000])

    with pytest.raises(RuntimeFault):
        unpacked(archive, kind, tmp_path / "target")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zip_of("a", b"secret"))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    path = tmp_path / "archive"
    path.write_bytes(data)

    with pytest.raises(RuntimeFault, match="cannot be unpacked"):
        unpacked(path, Format.ZIP, tmp_path / "target")


def test_links_in_a_zip_are_links(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(zip_of("link", b"/etc/passwd", 0o120777))

    target = unpacked(path, Format.ZIP, tmp_path / "target")

    assert (target / "link").readlink() == Path("/etc/passwd")
