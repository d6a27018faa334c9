"""What the ExeUnit reads from `agreement.json` (docs/protocol/activity-exeunit.md §6.1).

Pure but for reading the file. The file is the Agreement of the REST API; properties may be dotted,
nested, or nested with `@tag` for a value that has children.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shem.kernel.errors import UsageError
from shem.kernel.times import NS_PER_S
from shem.rest.endwhen import EndWhen, ResultSink, parse_end_when, parse_sink
from shem.rest.manifest import MANIFEST, NOTHING, Manifest, Outbound, decode_manifest

AGREEMENT_SIZE_MAX: Final = 4 << 20
TASK_PACKAGE: Final = "golem.srv.comp.task_package"
OPERATING_SYSTEM: Final = "linux"
EXPIRATION: Final = "golem.srv.comp.expiration"
USAGE_VECTOR: Final = "golem.com.usage.vector"
MEMORY_GIB: Final = "golem.inf.mem.gib"
STORAGE_GIB: Final = "golem.inf.storage.gib"
THREADS: Final = "golem.inf.cpu.threads"
THREADS_MAX: Final = 4_096
_TAG: Final = "@tag"
_DEPTH_MAX: Final = 32
_NS_PER_MS: Final = NS_PER_S // 1_000


@dataclass(frozen=True, slots=True)
class AgreementTerms:
    """The terms that an ExeUnit works under."""

    agreement_id: str
    task_package: str | None
    """The image: of the manifest, when that names one for this machine."""
    manifest: Manifest | None
    usage_vector: tuple[str, ...]
    memory_gib: float | None
    storage_gib: float | None
    threads: int | None
    expires_ns: int | None
    offer: Mapping[str, object]
    """The provider's side, flat: prices are read from it."""
    end_when: EndWhen | None = None
    sink: ResultSink | None = None

    @property
    def outbound(self) -> Outbound:
        """Return what programs may reach."""
        return NOTHING if self.manifest is None else self.manifest.outbound


def load_terms(path: Path) -> AgreementTerms:
    """Read the agreement file; UsageError when it cannot be worked under."""
    try:
        text = path.read_text()
        if len(text) > AGREEMENT_SIZE_MAX:
            raise UsageError(f"{path}: more than {AGREEMENT_SIZE_MAX} bytes")
        body = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from error
    if not isinstance(body, dict):
        raise UsageError(f"{path}: not a JSON object")
    return parse_terms(body)


def parse_terms(body: Mapping[str, object]) -> AgreementTerms:
    """Take the terms out of an agreement."""
    demand = flatten(_properties(body, "demand"))
    offer = flatten(_properties(body, "offer"))
    vector = offer.get(USAGE_VECTOR)
    if not isinstance(vector, list) or not all(isinstance(name, str) for name in vector):
        raise UsageError(f"the agreement's offer has no {USAGE_VECTOR}")
    manifest = decode_manifest(demand[MANIFEST]) if MANIFEST in demand else None
    task_package = demand.get(TASK_PACKAGE)
    if manifest is not None:
        named = manifest.task_package(platform.machine(), OPERATING_SYSTEM)
        task_package = named or task_package
    expires_ms = _number(demand.get(EXPIRATION))
    return AgreementTerms(
        agreement_id=str(body.get("agreementId", "")),
        task_package=task_package if isinstance(task_package, str) else None,
        manifest=manifest,
        usage_vector=tuple(vector),
        memory_gib=_number(offer.get(MEMORY_GIB)),
        storage_gib=_number(offer.get(STORAGE_GIB)),
        threads=_count(offer.get(THREADS)),
        expires_ns=None if expires_ms is None else int(expires_ms) * _NS_PER_MS,
        offer=offer,
        end_when=parse_end_when(demand),
        sink=parse_sink(demand),
    )


def flatten(properties: Mapping[str, object]) -> dict[str, object]:
    """Return properties with dotted keys, whatever form they came in."""
    flat: dict[str, object] = {}
    pending: list[tuple[str, object, int]] = [("", properties, 0)]
    while pending:
        prefix, value, depth = pending.pop()
        if not isinstance(value, Mapping):
            flat[prefix] = value
            continue
        if depth >= _DEPTH_MAX:
            raise UsageError(f"properties are nested more than {_DEPTH_MAX} deep")
        for key, child in value.items():
            name = prefix if key == _TAG else f"{prefix}.{key}" if prefix else str(key)
            pending.append((name, child, depth + 1))
    return flat


def expand(properties: Mapping[str, object]) -> dict[str, object]:
    """Return properties nested, with `@tag` where a name has both a value and children."""
    nested: dict[str, object] = {}
    for key, value in properties.items():
        *parents, last = key.split(".")
        node = nested
        for part in parents:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                child = {_TAG: child}
                node[part] = child
            node = child
        present = node.get(last)
        if isinstance(present, dict) and not isinstance(value, dict):
            present[_TAG] = value
        else:
            node[last] = value
    return nested


def _properties(body: Mapping[str, object], side: str) -> Mapping[str, object]:
    part = body.get(side)
    properties = part.get("properties") if isinstance(part, Mapping) else None
    if not isinstance(properties, Mapping):
        raise UsageError(f"the agreement has no {side} properties")
    return properties


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None


def _count(value: object) -> int | None:
    number = _number(value)
    return None if number is None or not 1 <= number <= THREADS_MAX else int(number)
