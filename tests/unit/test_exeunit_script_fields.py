"""The fields of deploy and transfer, as requestors and nodes write them."""

from typing import Any

import pytest

from shem.exeunit.commands import (
    DeployOptions,
    FileSet,
    Format,
    TransferSpec,
    VolumeKind,
    VolumeWish,
)
from shem.exeunit.script import parse_script
from shem.kernel.errors import UsageError


def deploy(**fields: Any) -> Any:
    return parse_script([{"deploy": fields}]).commands[0]


def transfer(**fields: Any) -> Any:
    return parse_script([{"transfer": {"from": "a", "to": "b", **fields}}]).commands[0]


def test_what_a_node_forwards_for_an_empty_deploy() -> None:
    forwarded = {"net": [], "hosts": {}, "hostname": None, "env": {}, "progress": None}

    assert deploy(**forwarded).deploy == DeployOptions()
    assert deploy(**forwarded).progress_s is None


def test_volumes_are_a_list_of_paths_or_a_map_of_kinds() -> None:
    host = VolumeWish(VolumeKind.HOST)

    assert deploy(volumes=["/a", "/b"]).deploy.volumes == {"/a": host, "/b": host}
    kinds = {"/a": {"host": {}}, "/b": {"ram": {"size": 5}}, "/c": {"storage": {"size": 6}}}
    assert deploy(volumes=kinds).deploy.volumes == {
        "/a": host,
        "/b": VolumeWish(VolumeKind.RAM, 5),
        "/c": VolumeWish(VolumeKind.STORAGE, 6),
    }


def test_hostname_and_networks() -> None:
    network = {"id": "n", "ip": "10.0.0.0", "nodeIp": "10.0.0.1", "nodes": {}}

    assert deploy(hostname="box", net=[network]).deploy == DeployOptions(
        hostname="box", networks=True
    )


def test_what_a_node_forwards_for_a_plain_transfer() -> None:
    forwarded = {"format": None, "depth": None, "fileset": None, "progress": None}

    assert transfer(**forwarded).transfer == TransferSpec("a", "b")


def test_all_fields_of_a_transfer() -> None:
    fileset = ["*.c", {"desc": "x", "includes": ["a", "b"], "excludes": "c"}, {"excludes": ["d"]}]

    assert transfer(format="zip.0", depth=3, fileset=fileset).transfer == TransferSpec(
        "a",
        "b",
        Format.ZIP_STORED,
        3,
        (FileSet(("*.c",)), FileSet(("a", "b"), ("c",)), FileSet(("**/*",), ("d",))),
    )
    assert transfer(fileset="*.h").transfer.filesets == (FileSet(("*.h",)),)


@pytest.mark.parametrize(
    ("interval", "seconds"),
    [
        (None, 1.0),
        ("300ms", 0.3),
        ("2s", 2.0),
        ("1m 30s", 90.0),
        ("1min30sec", 90.0),
        ("1us", 0.1),
        ("2hours", 7_200.0),
    ],
)
def test_progress_intervals(interval: str | None, seconds: float) -> None:
    told = {"updateInterval": interval, "updateStep": None}

    assert transfer(progress=told).progress_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    "command",
    [
        {"transfer": {}},
        {"transfer": {"from": "a"}},
        {"transfer": {"from": 1, "to": "b"}},
        {"transfer": {"from": "a" * 9_000, "to": "b"}},
        {"transfer": {"from": "a", "to": "b", "format": "rar"}},
        {"transfer": {"from": "a", "to": "b", "depth": -1}},
        {"transfer": {"from": "a", "to": "b", "depth": True}},
        {"transfer": {"from": "a", "to": "b", "fileset": 1}},
        {"transfer": {"from": "a", "to": "b", "fileset": [1]}},
        {"transfer": {"from": "a", "to": "b", "fileset": {"includes": [1]}}},
        {"transfer": {"from": "a", "to": "b", "fileset": ["x"] * 257}},
        {"transfer": {"from": "a", "to": "b", "progress": 1}},
        {"transfer": {"from": "a", "to": "b", "progress": {"updateInterval": "soon"}}},
        {"transfer": {"from": "a", "to": "b", "progress": {"updateInterval": "1 parsec"}}},
        {"transfer": {"from": "a", "to": "b", "progress": {"updateInterval": 1}}},
        {"deploy": {"volumes": 1}},
        {"deploy": {"volumes": [1]}},
        {"deploy": {"volumes": ["/x"] * 33}},
        {"deploy": {"volumes": {f"/{n}": {"host": {}} for n in range(33)}}},
        {"deploy": {"volumes": {"/x": {}}}},
        {"deploy": {"volumes": {"/x": {"disk": {}}}}},
        {"deploy": {"volumes": {"/x": {"ram": {}}}}},
        {"deploy": {"volumes": {"/x": {"ram": {"size": -1}}}}},
        {"deploy": {"volumes": {"/x": {"ram": {"size": 1.5}}}}},
        {"deploy": {"volumes": {"/x": {"host": {}, "ram": {"size": 1}}}}},
        {"deploy": {"hostname": 1}},
        {"run": {"entry_point": "a\0b"}},
    ],
)
def test_malformed_fields_are_refused(command: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="command 0"):
        parse_script([command])
