"""The keystore: certificates that rules may name, one file or more in `cert-dir` (docs/protocol/
provider-agent.md §5.9).

A file holds a Golem certificate (JSON), or X.509 ones (PEM or DER). Whatever else lies there is
passed over. A certificate that is added gets a file of its own, named by its id.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from shem.kernel.config import setting
from shem.kernel.errors import NotFound, UsageError
from shem.provider.certificates import Certificate, NotSound, Validity, read_certificate
from shem.provider.files import remove_file, write_bytes
from shem.provider.x509 import id_of, leaves, read_certificates, subject_of, validity_of

DIRECTORY_NAME: Final = "cert-dir"
FILE_SIZE_MAX: Final = 1 << 20
FILES_MAX: Final = 1_000
NAME_DIGITS: Final = 32
"""Of the id, in the name of a file."""
SHORT_IDS: Final = (8, 32, 128)
GOLEM: Final = "Golem"
X509: Final = "X.509"


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate."""

    id: str
    certificate: Certificate | x509.Certificate
    file: Path

    @property
    def kind(self) -> str:
        return GOLEM if isinstance(self.certificate, Certificate) else X509

    @property
    def validity(self) -> Validity:
        found = self.certificate
        return found.validity if isinstance(found, Certificate) else validity_of(found)

    @property
    def subject(self) -> str | dict[str, str]:
        found = self.certificate
        return found.subject if isinstance(found, Certificate) else subject_of(found)


@dataclass(frozen=True, slots=True)
class Keystore:
    """All certificates, by id."""

    entries: tuple[Entry, ...] = ()
    passed_over: tuple[str, ...] = ()
    """Files that hold no certificate, and why."""

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(entry.id for entry in self.entries)

    @property
    def anchors(self) -> tuple[x509.Certificate, ...]:
        """Return the X.509 certificates."""
        found = (entry.certificate for entry in self.entries)
        return tuple(one for one in found if isinstance(one, x509.Certificate))

    def get(self, prefix: str) -> Entry:
        """Return the certificate whose id begins so; NotFound when none or several do."""
        found = [entry for entry in self.entries if entry.id.startswith(prefix.lower())]
        if not prefix or not found:
            raise NotFound(
                f"no certificate {prefix!r} is in the keystore: see `shem provider keystore list`"
            )
        if len(found) > 1:
            raise UsageError(f"several certificates begin with {prefix!r}: give more of the id")
        return found[0]


def cert_dir_of(data_dir: Path, option: str | None = None) -> Path:
    """Return the directory of certificates."""
    named = option or setting("PROVIDER_CERT_DIR", "PROVIDER_CERT_DIR")
    return data_dir / DIRECTORY_NAME if named is None else Path(named).expanduser()


def load_keystore(directory: Path) -> Keystore:
    """Read all certificates; UsageError when the directory or a file in it cannot be read."""
    found: dict[str, Entry] = {}
    passed_over = []
    for path in files_of(directory):
        try:
            for entry in read_entries(path):
                found.setdefault(entry.id, entry)
        except NotSound as error:
            passed_over.append(f"{path}: {error.message}")
    return Keystore(tuple(found[name] for name in sorted(found)), tuple(passed_over))


def files_of(directory: Path) -> list[Path]:
    """Return the files of the keystore, in order."""
    try:
        found = sorted(path for path in directory.iterdir() if path.is_file())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}") from error
    found = [path for path in found if not path.name.startswith(".")]
    if len(found) > FILES_MAX:
        raise UsageError(f"{directory}: more than {FILES_MAX} files")
    return found


def read_entries(path: Path) -> tuple[Entry, ...]:
    """Read the certificates of a file; NotSound when it holds none, UsageError when unreadable."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if len(data) > FILE_SIZE_MAX:
        raise NotSound(f"more than {FILE_SIZE_MAX} bytes")
    if data.lstrip().startswith(b"{"):
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise NotSound(f"not JSON: {error}") from error
        golem = read_certificate(body)
        return (Entry(golem.id, golem, path),)
    return tuple(Entry(id_of(found), found, path) for found in read_certificates(data))


def leaf_ids(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Return the certificates of a file that a rule about it means."""
    chain = [entry.certificate for entry in entries]
    several = [found for found in chain if isinstance(found, x509.Certificate)]
    if not several:
        return tuple(entry.id for entry in entries)
    return tuple(id_of(found) for found in leaves(several) or several[-1:])


def add(directory: Path, path: Path, now_ns: int) -> tuple[Entry, ...]:
    """Copy the certificates of a file; return those that were not there before."""
    try:
        entries = read_entries(path)
    except NotSound as error:
        raise UsageError(f"{path}: {error.message}") from error
    if any(entry.validity.until_ns < now_ns for entry in entries):
        raise UsageError(f"{path}: a certificate in it has expired")
    known = load_keystore(directory).ids
    new = tuple(entry for entry in entries if entry.id not in known)
    for entry in new:
        if isinstance(entry.certificate, x509.Certificate):
            data, ending = entry.certificate.public_bytes(Encoding.PEM), "pem"
        else:
            data, ending = path.read_bytes(), "json"
        write_bytes(directory / f"{entry.id[:NAME_DIGITS]}.{ending}", data)
    return new


def remove(directory: Path, ids: Sequence[str]) -> None:
    """Remove certificates; what else is in their files stays."""
    for path in files_of(directory):
        try:
            entries = read_entries(path)
        except NotSound:
            continue
        left = [entry for entry in entries if entry.id not in ids]
        if len(left) == len(entries):
            continue
        rest = [found.certificate for found in left]
        data = [one.public_bytes(Encoding.PEM) for one in rest if isinstance(one, x509.Certificate)]
        if data:
            write_bytes(path, b"".join(data))
        else:
            remove_file(path)


def short_ids(ids: Sequence[str]) -> dict[str, str]:
    """Return for each id a beginning that no other has."""
    found = {}
    for name in ids:
        lengths = (*SHORT_IDS, len(name))
        found[name] = next(
            name[:length]
            for length in lengths
            if length >= len(name) or sum(other.startswith(name[:length]) for other in ids) == 1
        )
    return found
