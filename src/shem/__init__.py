"""shem: a Golem Network node whose requestors can go offline; and its SDK.

    import shem

    async with shem.Golem(app="demo") as golem:
        async with golem.rent(shem.WasmPackage(url=…, hash=…)) as activity:
            print((await activity.run("mandel", "render")).stdout)

Names are loaded when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shem.rest.models import AbsenceLimit
    from shem.sdk.absence import Absence, Due
    from shem.sdk.activity import Activity, BatchInfo
    from shem.sdk.agreement import Agreement
    from shem.sdk.batch import Batch, CommandResult, Output
    from shem.sdk.errors import (
        ActivityGone,
        AgreementEnded,
        BatchTimeout,
        BatchUnknown,
        CommandFailed,
        Ended,
        GolemError,
        NodeRefused,
        NoProvider,
        NotReachable,
        NotSupported,
        PermissionDenied,
    )
    from shem.sdk.golem import Golem
    from shem.sdk.map import Done, Mapping
    from shem.sdk.payloads import Payload, WasmPackage
    from shem.sdk.progress import Recomputation
    from shem.sdk.report import AttachReport, BatchReport
    from shem.sdk.running import Running
    from shem.sdk.script import Deploy, Run, Script, Start, Terminate
    from shem.sdk.service import Service, ServiceState
    from shem.sdk.ticket import Ticket

_ERRORS: Final = "shem.sdk.errors"
_HOME: Final = {
    "Absence": "shem.sdk.absence",
    "AbsenceLimit": "shem.rest.models",
    "Activity": "shem.sdk.activity",
    "ActivityGone": _ERRORS,
    "Agreement": "shem.sdk.agreement",
    "AgreementEnded": _ERRORS,
    "AttachReport": "shem.sdk.report",
    "Batch": "shem.sdk.batch",
    "BatchInfo": "shem.sdk.activity",
    "BatchReport": "shem.sdk.report",
    "BatchTimeout": _ERRORS,
    "BatchUnknown": _ERRORS,
    "CommandFailed": _ERRORS,
    "CommandResult": "shem.sdk.batch",
    "Deploy": "shem.sdk.script",
    "Done": "shem.sdk.map",
    "Due": "shem.sdk.absence",
    "Ended": _ERRORS,
    "Golem": "shem.sdk.golem",
    "GolemError": _ERRORS,
    "Mapping": "shem.sdk.map",
    "NoProvider": _ERRORS,
    "NodeRefused": _ERRORS,
    "NotReachable": _ERRORS,
    "NotSupported": _ERRORS,
    "Output": "shem.sdk.batch",
    "Payload": "shem.sdk.payloads",
    "PermissionDenied": _ERRORS,
    "Recomputation": "shem.sdk.progress",
    "Run": "shem.sdk.script",
    "Script": "shem.sdk.script",
    "Running": "shem.sdk.running",
    "Service": "shem.sdk.service",
    "ServiceState": "shem.sdk.service",
    "Start": "shem.sdk.script",
    "Terminate": "shem.sdk.script",
    "Ticket": "shem.sdk.ticket",
    "WasmPackage": "shem.sdk.payloads",
}

__all__ = [
    "Absence",
    "AbsenceLimit",
    "Activity",
    "ActivityGone",
    "Agreement",
    "AgreementEnded",
    "AttachReport",
    "Batch",
    "BatchInfo",
    "BatchReport",
    "BatchTimeout",
    "BatchUnknown",
    "CommandFailed",
    "CommandResult",
    "Deploy",
    "Done",
    "Due",
    "Ended",
    "Golem",
    "GolemError",
    "Mapping",
    "NoProvider",
    "NodeRefused",
    "NotReachable",
    "NotSupported",
    "Output",
    "Payload",
    "PermissionDenied",
    "Recomputation",
    "Run",
    "Running",
    "Script",
    "Service",
    "ServiceState",
    "Start",
    "Terminate",
    "Ticket",
    "WasmPackage",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'shem' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
