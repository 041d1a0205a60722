"""Move files of any size to, from and between ORBIT endpoints.

This is what a user imports; it needs nothing of what serves the plugin.
"""

from .client import StagingClient
from .errors import (
    AlreadyThere,
    AnotherFileSystem,
    ChecksumMismatch,
    DiskFull,
    FileChanged,
    InvalidPath,
    NotEmpty,
    PathRefused,
    RangeNotSatisfiable,
    StorageFailed,
    TicketRefused,
    UnknownFile,
    UnknownUpload,
    UploadBusy,
    WrongKind,
    WrongOffset,
)
from .transfers import Progress

__all__ = [
    "AlreadyThere",
    "AnotherFileSystem",
    "ChecksumMismatch",
    "DiskFull",
    "FileChanged",
    "InvalidPath",
    "NotEmpty",
    "PathRefused",
    "Progress",
    "RangeNotSatisfiable",
    "StagingClient",
    "StorageFailed",
    "TicketRefused",
    "UnknownFile",
    "UnknownUpload",
    "UploadBusy",
    "WrongKind",
    "WrongOffset",
]
