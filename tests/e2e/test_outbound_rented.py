"""A program in a rented container calls what its manifest names and its provider whitelists."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

import shem
from shem.cli.main import cli
from shem.devnet.compose import Devnet
from tests.busybox_image import requires_container
from tests.e2e.test_exeunit_outbound import web_server
from tests.e2e.test_runtime_container import container_image, golem_at, sh

pytestmark = requires_container()


def operate(net: Devnet, *words: str) -> None:
    data = str(net.directory / "agent" / "data")
    done = CliRunner().invoke(cli, ["provider", "--data-dir", data, *words])
    assert done.exception is None, done.exception


async def taken_over(net: Devnet, count: int) -> None:
    """Wait until the agent has noticed so many changes of its operator's files."""
    log = net.directory / "agent" / "agent.log"
    async with asyncio.timeout(20):
        while log.read_text().count("settings.changed") < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_what_the_operator_whitelists_is_called(short_dir: Path) -> None:
    async with Devnet(short_dir) as net, web_server() as (port, asked):
        plain = container_image(net)
        place = f"http://localhost:{port}"
        image = shem.ContainerImage(
            url=plain.url, hash=plain.hash, outbound=(place, "https://api.example.com")
        )
        async with golem_at(net.requestor) as golem:
            with pytest.raises(shem.GolemError):
                await golem.rent(image, expires=timedelta(hours=1), timeout=5.0)
            assert "didn't match whitelist" in (net.directory / "agent" / "agent.log").read_text()

            operate(net, "whitelist", "add", "localhost", r"^api\.example\.com$", "-t", "regex")
            await taken_over(net, 1)
            async with golem.rent(image, expires=timedelta(hours=1)) as activity:
                fetch = "unset no_proxy NO_PROXY; wget -q -O -"
                assert await sh(activity, f"{fetch} {place}/") == "hello\n"
                other = f"{fetch} http://localhost:{port + 1}/ 2>&1 || true"
                assert "403" in await sh(activity, other)
                await activity.end()
        assert len(asked) == 1
