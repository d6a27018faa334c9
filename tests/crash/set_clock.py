"""Sets the wall clocks of a devnet's machines, the requestor's or the provider's."""

import os
from pathlib import Path

CODE = Path(__file__).parent / "clock"


def clock_environment(directory: Path) -> dict[str, str]:
    """Return what makes the processes of a devnet follow `set_clock`."""
    return {"PYTHONPATH": str(CODE), "SHEM_TEST_CLOCKS": str(directory)}


def set_clock(directory: Path, machine: str, seconds: float) -> None:
    """Have a machine's clock be wrong by so much, at once."""
    partial = directory / f"clock-of-{machine}.new"
    partial.write_text(str(seconds))
    os.replace(partial, directory / f"clock-of-{machine}")  # noqa: PTH105 - whole or not at all
