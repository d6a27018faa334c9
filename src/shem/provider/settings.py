"""What the operator's files say, read together, and read again when one of them has changed.

A file that cannot be used stops an agent from starting, and a running one from changing anything:
it says so and goes on with what it had.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from shem.kernel.errors import UsageError
from shem.provider import access, hardware, presets, whitelist
from shem.provider.access import Access, load_access, save_access
from shem.provider.config import GLOBALS_NAME, Globals, load_globals
from shem.provider.descriptor import Descriptor
from shem.provider.files import changing
from shem.provider.hardware import Machine, Profile, default_profiles, load_profiles, save_profiles
from shem.provider.keystore import Keystore, cert_dir_of, files_of, load_keystore
from shem.provider.presets import Preset, Presets, load_presets, save_presets
from shem.provider.whitelist import Whitelist, load_whitelist, save_whitelist

FILES: Final = (
    GLOBALS_NAME,
    *(file.FILE_NAME for file in (presets, hardware, access, whitelist)),
)

Fingerprint = tuple[tuple[int, int, int], ...]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settings:
    """All files."""

    globals: Globals
    presets: Presets
    profile: Profile
    access: Access
    whitelist: Whitelist
    keystore: Keystore


def load_settings(
    data_dir: Path, descriptors: Sequence[Descriptor], machine: Machine, cert_dir: Path
) -> Settings:
    """Read all files, and make those that a provider cannot be without."""
    with changing(data_dir):
        found = load_presets(data_dir)
        if found is None:
            found = new_presets(descriptors)
            save_presets(data_dir, found)
        profiles = load_profiles(data_dir)
        if profiles is None:
            profiles = default_profiles(machine)
            save_profiles(data_dir, profiles)
        if not (data_dir / access.FILE_NAME).exists():
            save_access(data_dir, Access())
        if not (data_dir / whitelist.FILE_NAME).exists():
            save_whitelist(data_dir, Whitelist())
    keystore = load_keystore(cert_dir)
    for reason in keystore.passed_over:
        log.info("certificate.passed_over", reason=reason)
    return Settings(
        load_globals(data_dir),
        found,
        profiles.profiles[profiles.active],
        load_access(data_dir).without_strangers(keystore.ids),
        load_whitelist(data_dir),
        keystore,
    )


def new_presets(descriptors: Sequence[Descriptor]) -> Presets:
    """Return what a new provider offers: every runtime, for nothing."""
    found = Presets()
    for descriptor in descriptors:
        free = dict.fromkeys(descriptor.priced, 0.0)
        made = Preset(descriptor.name, descriptor.name, usage_coeffs=free)
        if all(other.name != made.name for other in found.all):
            found = found.created(made).activated(made.name)
    return found


class SettingsWatch:
    """Notices that a file has changed."""

    def __init__(
        self,
        data_dir: Path,
        descriptors: Sequence[Descriptor],
        machine: Machine,
        cert_dir: Path | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._cert_dir = cert_dir or cert_dir_of(data_dir)
        self._descriptors = descriptors
        self._machine = machine
        self._seen: Fingerprint | None = None

    def load(self) -> Settings:
        """Read all files; UsageError when one cannot be used."""
        settings = load_settings(self._data_dir, self._descriptors, self._machine, self._cert_dir)
        self._seen = self._look()
        return settings

    def changed(self) -> Settings | None:
        """Return the settings if a file has changed since they were read and all can be used."""
        now = self._look()
        if now == self._seen:
            return None
        self._seen = now
        try:
            return self.load()
        except UsageError as error:
            log.warning(
                "settings.unusable", reason=error.message, note="going on with the old ones"
            )
            return None

    def _look(self) -> Fingerprint:
        found = []
        paths = [self._data_dir / name for name in FILES]
        with suppress(UsageError):  # said when it is read
            paths += files_of(self._cert_dir)
        for path in paths:
            try:
                status = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return tuple(found)
