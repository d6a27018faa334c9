"""The SDK without async: the same names, and every call waits.

    from shem.sync import Golem, Run, WasmPackage

    with Golem(app="demo") as golem, golem.rent(WasmPackage(url=…, hash=…)) as activity:
        print(activity.run("mandel", "render").stdout)
        for result in activity.submit([Run("mandel", "zoom", "1", "9")]).results():
            print(result.stdout)

An event loop in a thread of its own does the work (`loop`); handles (`handles`) and sessions
(`golem`) pass calls on to it and hold no state of their own. What has nothing to wait for (scripts,
payloads, results, tickets, errors) is the same class as in `shem`.
"""

from typing import TYPE_CHECKING

import shem as _shem
from shem.sync.golem import Golem, Mapping, Running, Service
from shem.sync.handles import Activity, Agreement, Batch, BatchInfo

if TYPE_CHECKING:
    from shem import (
        START_ENTRYPOINT,
        Absence,
        AbsenceLimit,
        ActivityGone,
        AgreementEnded,
        AttachReport,
        BatchReport,
        BatchTimeout,
        BatchUnknown,
        CommandFailed,
        CommandResult,
        ContainerImage,
        Deploy,
        Done,
        Download,
        Due,
        Ended,
        EndWhen,
        Finished,
        GolemError,
        NodeRefused,
        NoProvider,
        NotReachable,
        NotSupported,
        Output,
        Payload,
        PermissionDenied,
        Progress,
        Recomputation,
        ResultSink,
        Run,
        Script,
        ServiceState,
        Start,
        Started,
        Terminate,
        Ticket,
        Transfer,
        Upload,
        WasmPackage,
    )

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
    if name not in __all__:
        raise AttributeError(f"module 'shem.sync' has no attribute {name!r}")
    return getattr(_shem, name)


def __dir__() -> list[str]:
    return sorted(__all__)
