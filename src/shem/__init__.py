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
    from shem.rest.endwhen import EndWhen, ResultSink
    from shem.rest.models import AbsenceLimit
    from shem.sdk.absence import Absence, Due
    from shem.sdk.activity import Activity, BatchInfo
    from shem.sdk.agreement import Agreement
    from shem.sdk.batch import Batch, CommandResult
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
    from shem.sdk.live import Finished, Output, Progress, Started
    from shem.sdk.map import Done, Mapping
    from shem.sdk.payloads import START_ENTRYPOINT, ContainerImage, Payload, WasmPackage
    from shem.sdk.progress import Recomputation
    from shem.sdk.report import AttachReport, BatchReport
    from shem.sdk.running import Running
    from shem.sdk.script import Deploy, Download, Run, Script, Start, Terminate, Transfer, Upload
    from shem.sdk.service import Service, ServiceState
    from shem.sdk.ticket import Ticket

_ERRORS: Final = "shem.sdk.errors"
_LIVE: Final = "shem.sdk.live"
_SCRIPT: Final = "shem.sdk.script"
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
    "ContainerImage": "shem.sdk.payloads",
    "Deploy": _SCRIPT,
    "Done": "shem.sdk.map",
    "Download": _SCRIPT,
    "Due": "shem.sdk.absence",
    "EndWhen": "shem.rest.endwhen",
    "Ended": _ERRORS,
    "Finished": _LIVE,
    "Golem": "shem.sdk.golem",
    "GolemError": _ERRORS,
    "Mapping": "shem.sdk.map",
    "NoProvider": _ERRORS,
    "NodeRefused": _ERRORS,
    "NotReachable": _ERRORS,
    "NotSupported": _ERRORS,
    "Output": _LIVE,
    "Payload": "shem.sdk.payloads",
    "PermissionDenied": _ERRORS,
    "Progress": _LIVE,
    "Recomputation": "shem.sdk.progress",
    "START_ENTRYPOINT": "shem.sdk.payloads",
    "ResultSink": "shem.rest.endwhen",
    "Run": _SCRIPT,
    "Script": _SCRIPT,
    "Running": "shem.sdk.running",
    "Service": "shem.sdk.service",
    "ServiceState": "shem.sdk.service",
    "Start": _SCRIPT,
    "Started": _LIVE,
    "Terminate": _SCRIPT,
    "Ticket": "shem.sdk.ticket",
    "Transfer": _SCRIPT,
    "Upload": _SCRIPT,
    "WasmPackage": "shem.sdk.payloads",
}

__all__ = [
    "START_ENTRYPOINT",
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
    "ContainerImage",
    "Deploy",
    "Done",
    "Download",
    "Due",
    "EndWhen",
    "Ended",
    "Finished",
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
    "Progress",
    "Recomputation",
    "ResultSink",
    "Run",
    "Running",
    "Script",
    "Service",
    "ServiceState",
    "Start",
    "Started",
    "Terminate",
    "Ticket",
    "Transfer",
    "Upload",
    "WasmPackage",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'shem' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
