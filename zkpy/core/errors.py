"""The failure that is an answer: a legal request that the server cannot fulfil."""

from __future__ import annotations


class KeeperError(Exception):
    """An error code of the client protocol (``ErrorCode``) that goes into the reply header."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
