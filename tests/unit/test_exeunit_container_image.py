"""Images in Golem's VM format: the configuration at their end, and where volumes may lie."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from shem.exeunit.runtimes.container import deployment
from shem.exeunit.runtimes.container.image import (
    DEFAULT_PATH,
    ImageConfig,
    ImageFault,
    append_config,
    parse_config,
    read_config,
)
from shem.exeunit.runtimes.container.limits import PROCESSES_MAX, ContainerLimits, enter_groups


def image(tmp_path: Path, trailer: bytes, *, magic: bytes = b"hsqs") -> Path:
    path = tmp_path / "image"
    path.write_bytes(magic + b"\0" * 100 + trailer)
    return path


def trailer(text: bytes, *, crc: int | None = None, size: bytes | None = None) -> bytes:
    checksum = zlib.crc32(text) if crc is None else crc
    return checksum.to_bytes(4, "little") + text + (size or b"%08d" % len(text))


def test_a_configuration_as_docker_writes_it(tmp_path: Path) -> None:
    body = {
        "Env": ["PATH=/bin", "A=b=c"],
        "User": "1000:50",
        "WorkingDir": "/srv",
        "Volumes": {"/data": {}, "/more/": {}},
        "Entrypoint": ["/srv/run"],
        "Cmd": ["-v"],
    }
    path = image(tmp_path, b"")
    append_config(path, body)

    assert read_config(path) == ImageConfig(
        ("PATH=/bin", "A=b=c"), "1000:50", "/srv", ("/data", "/more"), ("/srv/run", "-v")
    )


def test_an_empty_configuration_has_a_path_and_nothing_else() -> None:
    nothing = {"Env": None, "Volumes": None, "Cmd": None, "User": None, "WorkingDir": ""}

    assert parse_config(b"{}") == ImageConfig(env=(DEFAULT_PATH,))
    assert parse_config(json.dumps(nothing).encode()) == ImageConfig()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no configuration"),
        (b"12345678", "no configuration"),
        (b"99999999", "no configuration"),
        (b"not-digi", "no configuration"),
        (trailer(b"{}", crc=1), "damaged"),
        (trailer(b"{}", size=b"00000003"), "damaged"),
        (trailer(b"{"), "malformed"),
        (trailer(b"[]"), "malformed"),
        (trailer(b'{"Env": "x"}'), "Env"),
        (trailer(b'{"Cmd": [1]}'), "Cmd"),
        (trailer(b'{"User": 1}'), "User"),
        (trailer(b'{"WorkingDir": "srv"}'), "absolute"),
        (trailer(b'{"Volumes": {"/a/../..": {}}}'), "absolute"),
        (trailer(b'{"Volumes": {"/a\\u0000": {}}}'), "absolute"),
        (trailer(json.dumps({"Volumes": {f"/{i}": {} for i in range(33)}}).encode()), "at most"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ImageFault, match=message):
        read_config(image(tmp_path, data))


def test_what_is_no_squashfs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageFault, match="not a squashfs"):
        read_config(image(tmp_path, trailer(b"{}"), magic=b"PK\3\4"))
    with pytest.raises(ImageFault, match="cannot be read"):
        read_config(tmp_path / "none")


def deploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], **kw: Any
) -> Any:
    """Deploy an image whose files are already unpacked."""
    path = image(tmp_path, b"")
    append_config(path, config)
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    monkeypatch.setattr(deployment, "unpacked", lambda *_: root)
    options: dict[str, Any] = {
        "wishes": {},
        "hostname": None,
        "limits": ContainerLimits(1 << 20),
        **kw,
    }
    work_dir = tmp_path / "work"
    work_dir.mkdir(exist_ok=True)
    return deployment.deploy(work_dir, path, **options)


def test_volumes_of_image_and_wish_are_one_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes = {"/b": {"ram": {"size": 4096}}, "/c": {"storage": {"size": 1}}, "/d": {"host": {}}}

    made = deploy(tmp_path, monkeypatch, {"Volumes": {"/a": {}, "/b": {}}}, wishes=wishes)

    sizes = {mount.path: mount.memory_size for mount in made.mounts}
    assert sizes == {"/a": None, "/b": 4096, "/c": None, "/d": None}
    assert [volume["path"] for volume in made.reply()["vols"]] == ["/a", "/c", "/d"]
    assert deployment.load(tmp_path / "work") == made


def test_volumes_in_memory_are_no_more_than_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes = {"/a": {"ram": {"size": 1 << 19}}, "/b": {"ram": {"size": (1 << 19) + 1}}}

    with pytest.raises(ImageFault, match="more than there is"):
        deploy(tmp_path, monkeypatch, {}, wishes=wishes)


@pytest.mark.parametrize(
    "path", ["/", "//", "/proc", "/proc/sys", "/dev/shm", "/.", "data", "/x/.."]
)
def test_a_volume_that_would_hide_the_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    with pytest.raises(ImageFault, match=r"cannot lie|absolute"):
        deploy(tmp_path, monkeypatch, {}, wishes={path: {"host": {}}})


@pytest.mark.parametrize("name", ["a b", "x" * 65, "a\nb", "../x", ""])
def test_hostnames_are_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if not name:
        assert deploy(tmp_path, monkeypatch, {}, hostname=name).hostname == "container"
        return
    with pytest.raises(ImageFault, match="hostname"):
        deploy(tmp_path, monkeypatch, {}, hostname=name)


def test_the_user_is_looked_up_in_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etc = tmp_path / "root" / "etc"
    etc.mkdir(parents=True)
    (etc / "passwd").write_text("root:x:0:0::/:\nanna:x:1000:1001::/:\n")
    (etc / "group").write_text("root:x:0:\nwheel:x:10:anna\n")

    ids = {
        user: (made.uid, made.gid)
        for user in ("", "7", "7:8", "anna", "anna:wheel", "7:wheel")
        for made in [deploy(tmp_path, monkeypatch, {"User": user})]
    }

    assert ids == {
        "": (0, 0),
        "7": (7, 0),
        "7:8": (7, 8),
        "anna": (1000, 1001),
        "anna:wheel": (1000, 10),
        "7:wheel": (7, 10),
    }


@pytest.mark.parametrize("user", ["bert", "anna:none", "99999", "-1", "anna\n"])
def test_unusable_users_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    with pytest.raises(ImageFault):
        deploy(tmp_path, monkeypatch, {"User": user})


@pytest.mark.parametrize("linked", ["etc", "passwd"])
def test_a_link_in_the_image_does_not_lead_to_the_hosts_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: str
) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "passwd").write_text("secret:x:1234:1234::/:\n")
    root = tmp_path / "root"
    root.mkdir()
    if linked == "etc":
        (root / "etc").symlink_to(host)
    else:
        (root / "etc").mkdir()
        (root / "etc" / "passwd").symlink_to(host / "passwd")

    with pytest.raises(ImageFault, match="no /etc/passwd"):
        deploy(tmp_path, monkeypatch, {"User": "secret"})


def test_limits_are_written_to_control_groups_of_version_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's files are stood in for by plain ones."""
    monkeypatch.setattr(
        "shem.exeunit.runtimes.container.limits._own_groups", lambda: {"": "/user/app"}
    )
    own = tmp_path / "user" / "app"
    own.mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    made = Path.mkdir

    def mkdir(path: Path, *args: Any, **kw: Any) -> None:
        made(path, *args, **kw)
        inner = path.parent == own  # our own group has processes: nothing can be enabled there
        (path / "cgroup.controllers").write_text("" if inner else "cpu memory pids")
        for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "cgroup.procs"):
            (path / name).touch()

    def rmdir(path: Path) -> None:
        for file in path.iterdir():
            file.unlink()
        path.chmod(0o700)
        remove(path)

    remove = Path.rmdir
    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rmdir", rmdir)

    limited = enter_groups(ContainerLimits(1 << 30, 2), "x", root=tmp_path, pid=42)

    assert limited == {"cpu", "memory", "pids"}
    group = tmp_path / "user" / "shem-x"
    written = {name: (group / name).read_text() for name in ("memory.max", "pids.max", "cpu.max")}
    assert written == {
        "memory.max": str(1 << 30),
        "pids.max": str(PROCESSES_MAX),
        "cpu.max": "200000 100000",
    }
    assert (group / "cgroup.procs").read_text() == "42"
    assert not (own / "shem-x").exists()


def test_without_writable_control_groups_nothing_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "shem.exeunit.runtimes.container.limits._own_groups", lambda: {"memory": "/", "pids": "/"}
    )

    assert enter_groups(ContainerLimits(1), "x", root=tmp_path / "none", pid=42) == frozenset()
