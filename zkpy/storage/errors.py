"""What can be wrong with the files of a server, as errors that tell the operator where and what to do."""

from __future__ import annotations


class StorageDamageError(Exception):
    """Files that must not be started on: going on would serve less, or something else, than was acknowledged.

    Attributes:
        path: the file.
        offset: where in it, in bytes.
        problem: what is wrong there.
        remedy: what the operator can do.
    """

    def __init__(self, path: str, offset: int, problem: str, remedy: str) -> None:
        super().__init__(f"{path}, offset {offset}: {problem}. {remedy}")
        self.path = path
        self.offset = offset
        self.problem = problem
        self.remedy = remedy


class SnapshotDamageError(Exception):
    """A snapshot that cannot be used; an older one may do."""

    def __init__(self, path: str, offset: int, problem: str) -> None:
        super().__init__(f"{path}, offset {offset}: {problem}")
        self.path = path
        self.offset = offset
        self.problem = problem


class UnreachableZxidError(Exception):
    """The own files do not give the state at a zxid that a leader wants this server to go back to."""


class DataDirError(Exception):
    """The directories are not as they have to be for a start: missing, mixed up, or used by another server."""


class DiskFullError(Exception):
    """The log found no space for a batch. `TxnLog.rollback` makes it usable again; nothing was acknowledged."""


class LogFailedError(Exception):
    """Writing or syncing the log failed: what is on disk is unknown, so the server has to stop."""
