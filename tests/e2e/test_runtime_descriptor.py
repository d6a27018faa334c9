"""Runtime descriptors: a foreign runtime binary, and a container that the operator calls `vm`."""

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import SUBNET, shem_command
from shem.devnet.image import write_image
from tests.busybox_image import requires_container
from tests.runtime_binary import write_runtime


def write_supervisor(directory: Path) -> str:
    """Make an executable `exe-unit`, as a descriptor wants it."""
    path = directory / "exe-unit"
    path.write_text(f'#!/bin/sh\nexec {" ".join(shem_command())} exe-unit "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path.name


def write_descriptor(directory: Path, **entry: object) -> dict[str, str]:
    """Write `ya-test.json`; return the environment that makes the agent read it."""
    directory.mkdir()
    whole = {"supervisor-path": write_supervisor(directory), "version": "1.2.3", **entry}
    (directory / "ya-test.json").write_text(json.dumps([whole]))
    return {"EXE_UNIT_PATH": str(directory / "ya-*.json")}


@dataclass
class Demanded:
    """A package for the small runtime, whose template wants a property of every Demand."""

    package: shem.WasmPackage

    def properties(self) -> dict[str, Any]:
        return {**self.package.properties(), "golem.x": 1}

    def constraints(self) -> tuple[str, ...]:
        return ("(golem.runtime.name=small)",)


def golem_at(net: Devnet) -> shem.Golem:
    node = net.requestor
    return shem.Golem("e2e", api_url=node.api_url, app_key=node.app_key, subnet=SUBNET)


async def test_a_foreign_runtime_is_offered_rented_and_counted(short_dir: Path) -> None:
    plugins = short_dir / "plugins"
    settings = write_descriptor(
        plugins,
        name="small",
        **{
            "runtime-path": "ya-runtime-small",
            "extra-args": ["--cap-handoff", "-r", "service"],
            "properties": {"flavour": "tests"},
        },
    )
    write_runtime(plugins)
    async with Devnet(short_dir, env=settings) as net:
        async with net.provider.rest() as rest:
            [offer] = await rest.market.offers.mine()
            assert offer.properties["golem.runtime.name"] == "small"
            assert offer.properties["golem.runtime.flavour"] == "tests"
            assert offer.properties["golem.runtime.capabilities"] == ["manifest-support", "small"]
            assert "(golem.x=1)" in offer.constraints
        async with golem_at(net) as golem, golem.rent(Demanded(net.package)) as activity:
            result = await activity.run("/echo", "hello", "there")
            assert (result.ok, result.stdout) == (True, "echo hello there")
            assert not (await activity.run("/exit", "3")).ok


@requires_container()
async def test_an_operator_may_offer_the_container_as_a_virtual_machine(short_dir: Path) -> None:
    settings = write_descriptor(
        short_dir / "plugins", name="vm", **{"extra-args": ["--runtime", "container"]}
    )
    async with Devnet(short_dir, env=settings) as net:
        image = write_image(net.directory / "package")
        url = f"{net.package.url.rpartition('/')[0]}/{image.path.name}"
        payload = shem.WasmPackage(url=url, hash=f"sha3:{image.sha3_256}", runtime="vm")
        async with golem_at(net) as golem, golem.rent(payload) as activity:
            result = await activity.run("/bin/sh", "-c", "cat /etc/marker; id -un")
            assert result.stdout == "this is the image\nanna\n"
