"""A long-running service in a container, rented over the network, left alone and found again."""

import signal
from datetime import timedelta
from pathlib import Path

import psutil

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import SUBNET, Node
from shem.devnet.image import write_image
from tests.busybox_image import requires_container
from tests.crash.exeunit_site import until

pytestmark = requires_container()
IS_UP = "until wget -q -O /dev/null http://localhost:8080/; do sleep 0.05; done"
HITS = "wget -q -O - http://localhost:8080/cgi-bin/hits"


def golem_at(node: Node) -> shem.Golem:
    return shem.Golem("e2e", api_url=node.api_url, app_key=node.app_key, subnet=SUBNET)


def container_image(net: Devnet) -> shem.ContainerImage:
    """Put the image where the devnet serves its package."""
    image = write_image(net.directory / "package")
    base = net.package.url.rpartition("/")[0]
    url = f"{base}/{image.path.name}"
    return shem.ContainerImage.of_file(image.path, url=url, start=shem.START_ENTRYPOINT)


async def sh(activity: shem.Activity, script: str) -> str:
    return (await activity.run("/bin/sh", "-c", script, check=True)).stdout


async def test_a_service_counts_on_while_its_requestor_is_away(short_dir: Path) -> None:
    async with Devnet(short_dir) as net:
        async with golem_at(net.requestor) as golem:
            renting = golem.rent(container_image(net), expires=timedelta(hours=1))
            async with renting as activity:
                await sh(activity, IS_UP)
                assert await sh(activity, HITS) == "1\n"
                ticket = await activity.detach()
        await net.requestor.kill()
        await net.agent.kill()
        await net.agent.start()
        await net.requestor.start()

        async with golem_at(net.requestor) as golem, golem.attach(ticket) as activity:
            assert activity.report.alive
            assert await sh(activity, HITS) == "2\n"
            assert await sh(activity, "wc -l < /data/starts") == "1\n"

            # the ExeUnit dies, and its container with it: both come back, with their files
            [pid] = net.exe_units()
            psutil.Process(pid).send_signal(signal.SIGKILL)
            await until(lambda: net.exe_units() not in ([pid], []))
            await sh(activity, IS_UP)
            assert await sh(activity, HITS) == "3\n"
            assert await sh(activity, "wc -l < /data/starts") == "2\n"
            usage = await activity.usage()
            assert min(usage.current_usage or [0]) > 0
            [pid] = net.exe_units()
            all_of_it = psutil.Process(pid).children(recursive=True)
            assert "httpd" in {process.name() for process in all_of_it}
            await activity.end()
        await until(lambda: not any(process.is_running() for process in all_of_it))
