"""Presets: what is offered at which price, in `presets.json` (protocol/provider-agent.md §2.1).

The file is that of other provider agents, which may be copied here; theirs without `ver` is read
too. A preset names a runtime (`exeunit-name`) and the price of each counter; one Offer is made of
each active preset. Every function returns new presets and leaves the old ones as they are.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from shem.kernel.errors import Conflict, NotFound, UsageError
from shem.provider.files import read_file, write_file

FILE_NAME: Final = "presets.json"
VERSION: Final = "V1"
MODEL: Final = "linear"
PRESETS_MAX: Final = 64
NAME_CHARS_MAX: Final = 64
PRICES_MAX: Final = 32
REMEDY: Final = "correct it, or move it away and use `shem provider preset create`"
OLD_NAMES: Final = {"duration": "golem.usage.duration_sec", "cpu": "golem.usage.cpu_sec"}


class Preset(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """One offer: a runtime and its prices in GLM per unit of a counter."""

    name: str
    exeunit_name: str
    pricing_model: str = MODEL
    initial_price: float = 0.0
    usage_coeffs: dict[str, float] = {}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    active: list[str] = []
    presets: list[Preset] = []
    ver: str | None = None


@dataclass(frozen=True, slots=True)
class Presets:
    """All presets, by name in the order of the file, and which of them are offered."""

    all: tuple[Preset, ...] = ()
    active: tuple[str, ...] = ()

    @property
    def offered(self) -> tuple[Preset, ...]:
        return tuple(preset for preset in self.all if preset.name in self.active)

    def get(self, name: str) -> Preset:
        for preset in self.all:
            if preset.name == name:
                return preset
        known = ", ".join(preset.name for preset in self.all) or "none"
        raise NotFound(f"there is no preset {name!r} (there are: {known})")

    def created(self, preset: Preset) -> "Presets":
        check_preset(preset)
        if any(other.name == preset.name for other in self.all):
            raise Conflict(f"there is a preset {preset.name!r} already: update or remove it")
        if len(self.all) >= PRESETS_MAX:
            raise UsageError(f"there are at most {PRESETS_MAX} presets")
        return Presets((*self.all, preset), self.active)

    def updated(self, name: str, changes: Mapping[str, Any]) -> "Presets":
        """Change fields of a preset; a new name may be among them."""
        changed = msgspec.structs.replace(self.get(name), **changes)
        check_preset(changed)
        if changed.name != name and any(other.name == changed.name for other in self.all):
            raise Conflict(f"there is a preset {changed.name!r} already")
        return Presets(
            tuple(changed if preset.name == name else preset for preset in self.all),
            tuple(changed.name if other == name else other for other in self.active),
        )

    def removed(self, name: str) -> "Presets":
        gone = self.get(name)
        return Presets(
            tuple(preset for preset in self.all if preset is not gone),
            tuple(other for other in self.active if other != name),
        )

    def activated(self, name: str) -> "Presets":
        preset = self.get(name)
        return self if name in self.active else Presets(self.all, (*self.active, preset.name))

    def deactivated(self, name: str) -> "Presets":
        preset = self.get(name)
        return Presets(self.all, tuple(other for other in self.active if other != preset.name))


def check_preset(preset: Preset) -> None:
    """Refuse a preset of which no offer can be made."""
    if not 0 < len(preset.name) <= NAME_CHARS_MAX or not preset.name.isprintable():
        raise UsageError(f"a preset's name has 1 to {NAME_CHARS_MAX} printable characters")
    where = f"preset {preset.name!r}"
    if not preset.exeunit_name:
        raise UsageError(f"{where}: exeunit-name names no runtime")
    if preset.pricing_model != MODEL:
        raise UsageError(f"{where}: pricing-model {preset.pricing_model!r} is not {MODEL!r}")
    if len(preset.usage_coeffs) > PRICES_MAX:
        raise UsageError(f"{where}: usage-coeffs has at most {PRICES_MAX} prices")
    for key, price in {"initial-price": preset.initial_price, **preset.usage_coeffs}.items():
        if not math.isfinite(price) or price < 0:
            raise UsageError(f"{where}: {key} is {price}, and a price is 0 or more")


def load_presets(data_dir: Path) -> Presets | None:
    """Read the file; None when there is none, UsageError when it cannot be used."""
    path = data_dir / FILE_NAME
    found = read_file(path, _File, remedy=REMEDY)
    if found is None:
        return None
    try:
        return _checked(found)
    except (UsageError, Conflict, NotFound) as error:
        raise UsageError(f"{path}: {error.message}; {REMEDY}") from error


def save_presets(data_dir: Path, presets: Presets) -> None:
    write_file(data_dir / FILE_NAME, _File(list(presets.active), list(presets.all), VERSION))


def _checked(file: _File) -> Presets:
    if file.ver not in {None, VERSION}:
        raise UsageError(f"ver is {file.ver!r}; known is {VERSION!r}")
    presets = Presets()
    for preset in file.presets:
        presets = presets.created(_of_v0(preset) if file.ver is None else preset)
    for name in file.active:
        presets = presets.activated(name)
    return presets


def _of_v0(old: Preset) -> Preset:
    """Return the present form of a preset of a file without a version."""
    prices = dict(old.usage_coeffs)
    initial = prices.pop("initial", old.initial_price)
    named = {OLD_NAMES.get(name, name): price for name, price in prices.items()}
    return msgspec.structs.replace(old, initial_price=initial, usage_coeffs=named)
