"""What `shem provider clean` removes: found beside the agent, which may run meanwhile."""

import json
import time
from pathlib import Path
from typing import Final

from shem.cli.provider_status import rows_of
from shem.kernel.times import NS_PER_S
from shem.provider.cleaning import Old, find_old, remove_old
from shem.provider.stand_in import PREFIX as STAND_IN

_KEPT: Final = (
    "SELECT agreement_id FROM agent_agreement WHERE agreement_id = ? "
    "AND (state <> 'ended' OR changed_ns >= ?)"
)
_SPOKEN_FOR: Final = "SELECT value FROM agent_setting WHERE name >= ? AND name < ?"
_IN_USE: Final = "SELECT activity_id FROM agent_activity WHERE state <> 'ended' LIMIT 1"


def clean_now(directory: Path, *, age_s: float, dry_run: bool) -> list[Old]:
    """Remove what is older and no longer needed; returns it. With `dry_run` it stays."""
    before_s = time.time() - age_s
    before_ns = int(before_s * NS_PER_S)
    unit_dir = directory / "exe-unit"
    duties = rows_of(directory, _SPOKEN_FOR, STAND_IN, STAND_IN + "\U0010ffff")
    needed = {Path(json.loads(value)["directory"]).parent for (value,) in duties}
    found = [
        old
        for old in find_old(unit_dir / "work", before_s=before_s)
        if old.path not in needed and not rows_of(directory, _KEPT, old.path.name, before_ns)
    ]
    if not rows_of(directory, _IN_USE):
        found += find_old(unit_dir / "cache", before_s=before_s)
    if not dry_run:
        remove_old(found)
    return found
