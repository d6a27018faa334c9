"""Manifests and node descriptors that reach our agent through real yagnas, in their form."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import shem
from shem.devnet.image import write_image
from shem.kernel.world import World
from shem.relay.service import Relay
from shem.rest import RestClient
from shem.rest.manifest import NODE_DESCRIPTOR
from tests.busybox_image import requires_container
from tests.certified import root
from tests.e2e.test_exeunit_outbound import web_server
from tests.interop.real_yagna import RealYagna, real_yagna
from tests.interop.test_provider_yagna import SUBNET, agent_at, operate

pytestmark = requires_container()
PARTNER = root().certify("partner", keyUsage=["signNode"])


@dataclass
class Described:
    """An image, asked for by a requestor that shows a node descriptor."""

    image: shem.ContainerImage
    descriptor: dict[str, Any]

    def properties(self) -> dict[str, Any]:
        return {**self.image.properties(), NODE_DESCRIPTOR: self.descriptor}

    def constraints(self) -> tuple[str, ...]:
        return self.image.constraints()


@asynccontextmanager
async def golem_at(yagna: RealYagna) -> AsyncIterator[tuple[shem.Golem, str]]:
    """Yield an SDK at a yagna, and the yagna's node id."""
    async with (
        RestClient(yagna.api_url, yagna.app_key) as rest,
        shem.Golem(
            "interop",
            api_url=yagna.api_url,
            app_key=yagna.app_key,
            subnet=SUBNET,
            network="holesky",
        ) as golem,
    ):
        yield golem, (await rest.identity.me()).identity


async def test_a_partner_behind_a_real_yagna_is_granted_what_its_descriptor_permits(
    tmp_path: Path,
) -> None:
    found = write_image(tmp_path)
    directory, log = tmp_path / "agent", tmp_path / "agent.log"
    certificate = tmp_path / "partner.signed.json"
    certificate.write_text(json.dumps(PARTNER.signed))
    operate(directory, "rule", "set", "outbound", "everyone", "--mode", "none")
    partner = ("rule", "set", "outbound", "partner", "import-cert", str(certificate))
    operate(directory, *partner, "--mode", "all")
    async with (
        web_server() as (port, asked),
        Relay(World(), ("127.0.0.1", 0)) as relay,
        real_yagna(tmp_path / "p", relay.address) as provider,
        real_yagna(tmp_path / "r", relay.address) as requestor,
        agent_at(provider, directory, tmp_path),
        golem_at(requestor) as (golem, node_id),
    ):
        place = f"http://localhost:{port}/"
        image = shem.ContainerImage.of_file(found.path, url=found.path.as_uri(), outbound=(place,))
        permitted = {"outbound": {"urls": [place]}}
        other = {"outbound": {"urls": ["http://example.com/"]}}
        stranger = "0x" + "ab" * 20
        for descriptor, reason in (
            (PARTNER.describe(stranger, permissions=permitted), "Node ids mismatch"),
            (PARTNER.describe(node_id, permissions=other), "forbidden url requested"),
        ):
            async with asyncio.timeout(120):  # the agent and the yagnas may be slow to meet
                while reason not in log.read_text():
                    with pytest.raises(shem.GolemError):
                        await golem.rent(Described(image, descriptor), timeout=10.0)

        descriptor = PARTNER.describe(node_id, permissions=permitted)
        renting = golem.rent(Described(image, descriptor), expires=timedelta(hours=1), timeout=60.0)
        async with renting as activity:
            script = f"unset no_proxy NO_PROXY; wget -q -O - {place}"
            fetched = await activity.run("/bin/sh", "-c", script, check=True)
            assert fetched.stdout == "hello\n"
            await activity.end()
        assert len(asked) == 1
