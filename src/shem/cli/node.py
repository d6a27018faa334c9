"""`shem node run`: the daemon."""

import click

from shem.cli.lifetime import loading, serve_until_stopped
from shem.cli.main import Options
from shem.kernel import log
from shem.kernel.config import load_node_config


@click.group()
def node() -> None:
    """The node daemon: hybrid net, market, activity, and yagna's REST API."""


@node.command()
@click.option("-a", "--api-url", help="Address of the REST API [YAGNA_API_URL].")
@click.pass_obj
def run(options: Options, api_url: str | None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    \b
    Settings from the environment, yagna's names honoured: YAGNA_DATADIR, YAGNA_API_URL,
    GSB_URL, YAGNA_AUTOCONF_APPKEY, YAGNA_AUTOCONF_ID_SECRET, YA_NET_RELAY_HOST,
    YA_NET_BIND_URL, MAX_REST_TIMEOUT; and SHEM_DATABASE_URL for PostgreSQL.
    """
    with loading():
        from shem.node.app import run_node

    log.configure()
    config = load_node_config(datadir=options.datadir, api_url=api_url, gsb_url=options.gsb_url)
    serve_until_stopped(lambda stop: run_node(config, stop))
