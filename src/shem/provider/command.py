"""`shem provider`: run the provider agent (docs/protocol/provider-agent.md §2.2)."""

import asyncio
import signal
from pathlib import Path
from typing import Any, Final

import click

from shem.kernel import log as logs
from shem.kernel.config import DEFAULT_API_URL, DEFAULT_GSB_URL, setting
from shem.kernel.errors import UsageError
from shem.provider.config import (
    DEFAULT_AGREEMENTS_MAX,
    DEFAULT_DATA_DIR,
    DEFAULT_EXPIRATION_MIN_S,
    DEFAULT_IDLE_S,
    DEFAULT_PAYMENT_PLATFORM,
    DEFAULT_SUBNET,
    ProviderConfig,
)

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


@click.group()
def provider() -> None:
    """Run the provider agent."""


@provider.command()
@click.option("--app-key", help="The node's application key [YAGNA_APPKEY].")
@click.option("--api-url", help=f"The node's REST API [YAGNA_API_URL, {DEFAULT_API_URL}].")
@click.option("--data-dir", help=f"Where the agent keeps its state [DATA_DIR, {DEFAULT_DATA_DIR}].")
@click.option("--node-name", help="How the provider calls itself [NODE_NAME].")
@click.option("--subnet", help=f"The subnet to offer in [SUBNET, {DEFAULT_SUBNET}].")
@click.option("--account", help="Where payments go [YA_ACCOUNT, the node's id].")
@click.option("--payment-platform", help=f"Platform to be paid on [{DEFAULT_PAYMENT_PLATFORM}].")
@click.option("--exe-unit-path", help="Runtime descriptors [EXE_UNIT_PATH, the built-in ones].")
@click.option(
    "--max-simultaneous-agreements",
    type=click.IntRange(1, 1_000),
    help=f"[MAX_SIMULTANEOUS_AGREEMENTS, {DEFAULT_AGREEMENTS_MAX}]",
)
@click.option(
    "--min-agreement-expiration",
    help=f"Seconds an agreement must live [MIN_AGREEMENT_EXPIRATION, {DEFAULT_EXPIRATION_MIN_S}].",
)
@click.option(
    "--idle-agreement-timeout",
    help=f"Seconds an agreement may stand idle [IDLE_AGREEMENT_TIMEOUT, {DEFAULT_IDLE_S}].",
)
def run(**options: Any) -> None:
    """Offer this machine and run what is rented.

    Ends on SIGTERM; the ExeUnits go on and are taken up again at the next start.
    """
    logs.configure()
    asyncio.run(_serve(load_config(options)))


def load_config(options: dict[str, Any]) -> ProviderConfig:
    """Gather the settings from options and the environment."""

    def pick(option: str, name: str, alias: str) -> str | None:
        return options.get(option) or setting(name, alias)

    app_key = pick("app_key", "APPKEY", "YAGNA_APPKEY")
    if app_key is None:
        raise UsageError("the agent needs an application key: --app-key or YAGNA_APPKEY")
    data_dir = pick("data_dir", "PROVIDER_DATA_DIR", "DATA_DIR") or DEFAULT_DATA_DIR
    return ProviderConfig(
        app_key=app_key,
        data_dir=Path(data_dir).expanduser().absolute(),
        api_url=pick("api_url", "API_URL", "YAGNA_API_URL") or DEFAULT_API_URL,
        gsb_url=setting("GSB_URL", "GSB_URL") or DEFAULT_GSB_URL,
        node_name=pick("node_name", "NODE_NAME", "NODE_NAME"),
        subnet=pick("subnet", "SUBNET", "SUBNET") or DEFAULT_SUBNET,
        account=pick("account", "ACCOUNT", "YA_ACCOUNT"),
        payment_platform=pick("payment_platform", "PAYMENT_PLATFORM", "PAYMENT_PLATFORM")
        or DEFAULT_PAYMENT_PLATFORM,
        exe_unit_path=pick("exe_unit_path", "EXE_UNIT_PATH", "EXE_UNIT_PATH"),
        agreements_max=int(
            _number(
                options.get("max_simultaneous_agreements"),
                "MAX_SIMULTANEOUS_AGREEMENTS",
                DEFAULT_AGREEMENTS_MAX,
            )
        ),
        expiration_min_s=_number(
            options.get("min_agreement_expiration"),
            "MIN_AGREEMENT_EXPIRATION",
            DEFAULT_EXPIRATION_MIN_S,
        ),
        idle_agreement_s=_number(
            options.get("idle_agreement_timeout"), "IDLE_AGREEMENT_TIMEOUT", DEFAULT_IDLE_S
        ),
    )


def _number(option: object, name: str, default: float) -> float:
    """Read seconds or a count; a trailing `s`, as the original writes seconds, is taken too."""
    text = str(option or setting(name, name) or default)
    try:
        value = float(text.strip().removesuffix("s"))
    except ValueError as error:
        raise UsageError(f"{name} {text!r} is not a number") from error
    if not 0 <= value <= 1e10:
        raise UsageError(f"{name} {text!r} is not between 0 and 1e10")
    return value


async def _serve(config: ProviderConfig) -> None:
    """Run the agent until a signal comes."""
    from shem.kernel.world import World
    from shem.provider.agent import Agent
    from shem.provider.descriptor import load_descriptors, working
    from shem.provider.hardware import measure
    from shem.rest.client import RestClient
    from shem.store.datadir import hold_datadir

    world = World()
    with hold_datadir(config.data_dir, what="shem provider"):
        descriptors = await working(load_descriptors(config.exe_unit_path))
        async with RestClient(config.api_url, config.app_key) as client:
            agent = Agent(config, descriptors, measure(config.data_dir), client, world)
            await run_until_signal(agent)


async def run_until_signal(agent: Any) -> None:
    """Run; on a signal withdraw the offers and leave the ExeUnits running."""
    import structlog

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stopped.set)

    from shem.kernel.tasks import TaskScope

    async with TaskScope() as scope:
        scope.spawn(agent.run(), "agent")
        await stopped.wait()
        await agent.withdraw()
        structlog.get_logger().info(
            "agent.down", note="ExeUnits are left running; the next start takes them up again"
        )
