"""`shem activity cp`: files to an activity and back, with progress.

One side is `ACTIVITY:/path`; the other is a file of this machine or a URL.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from shem.cli.activity_live import Telling
from shem.cli.activity_lookup import attach_by_name, with_golem
from shem.cli.main import Options
from shem.kernel.errors import UsageError
from shem.sdk.activity import Activity
from shem.sdk.golem import Golem
from shem.sdk.moving import OnProgress
from shem.sdk.script import FORMATS

_INSIDE: Final = re.compile(r"([0-9a-f]{4,32}|[^:]*\.ticket):(/.*)")
_URL: Final = re.compile(r"(hash:.*|https?://.*)", re.I)


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a copy."""

    text: str
    activity: str | None = None
    """Names the activity whose path `text` is; None for a file or a URL."""

    @property
    def is_url(self) -> bool:
        return self.activity is None and _URL.fullmatch(self.text) is not None


@dataclass(frozen=True, slots=True)
class Copy:
    """What is copied where."""

    source: Side
    target: Side
    kind: str | None
    fileset: tuple[str, ...] | None

    @property
    def activity(self) -> str:
        """Return how the activity is named; UsageError unless it is exactly one side."""
        first, second = self.source.activity, self.target.activity
        if (first is None) == (second is None):
            raise UsageError(
                "one side is ACTIVITY:/PATH, the other a file of this machine or a URL"
            )
        return first or second or ""

    async def run(self, found: Activity, progress: OnProgress) -> None:
        source, target, kind = self.source.text, self.target.text, self.kind
        if self.source.is_url or self.target.is_url:
            await found.transfer(
                source, target, format=kind, fileset=self.fileset, progress=progress
            )
        elif self.source.activity is not None:
            await found.download(
                source, target, format=kind, fileset=self.fileset, progress=progress
            )
        elif self.fileset is None:
            await found.upload(source, target, format=kind, progress=progress)
        else:
            raise UsageError("--fileset says what of a directory of the activity is packed")


def side_of(text: str) -> Side:
    """Read `ACTIVITY:/path`, a URL, or the name of a file."""
    match = None if _URL.fullmatch(text) else _INSIDE.fullmatch(text)
    return Side(text) if match is None else Side(match[2], match[1])


@click.command()
@click.argument("source")
@click.argument("target")
@click.option(
    "--format", "kind", type=click.Choice(FORMATS), help="Unpack there, or pack a directory there."
)
@click.option("--fileset", multiple=True, help="Globs of what of a directory is packed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a document a line.")
@click.pass_obj
def cp(
    options: Options,
    *,
    source: str,
    target: str,
    kind: str | None,
    fileset: tuple[str, ...],
    as_json: bool,
) -> None:
    """Copy a file: `cp FILE ID:/PATH`, `cp ID:/PATH FILE`; or from or to a URL.

    Paths in an activity lie in one of its volumes. What arrives is checked by its hash.
    """
    copy = Copy(side_of(source), side_of(target), kind, fileset or None)
    name = copy.activity
    telling = Telling(as_json=options.json or as_json)

    async def work(golem: Golem) -> str:
        found = await attach_by_name(golem, name)
        await found.raise_if_gone()
        with telling.copying(Path(source.rpartition("/")[2]).name) as progress:
            await copy.run(found, progress)
        return found.id

    begun = time.monotonic()
    activity_id = with_golem(work, gsb_url=options.gsb_url)
    if telling.as_json:
        seconds = round(time.monotonic() - begun, 3)
        telling.document(
            "copied", activityId=activity_id, source=source, target=target, seconds=seconds
        )
