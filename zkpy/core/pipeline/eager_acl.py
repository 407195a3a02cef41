"""Refuses writes by the ACLs that are applied here, before they cost the ensemble anything (``enableEagerACLCheck``).

What a member of an ensemble is asked by its own clients is looked at before it is forwarded, or prepared. Refused is only
what NOAUTH or INVALIDACL is certain for; everything else passes on and is judged where txns are made: unknown nodes, paths that
cannot be, requests that cannot be read. Operations that Apache does not look at (containers, TTL nodes, multi) pass on as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.core import paths
from zkpy.core.errors import KeeperError
from zkpy.core.pipeline.reads import HEADER_BYTES
from zkpy.core.pipeline.request import Request
from zkpy_protocol.errors import DecodeError
from zkpy_protocol.opcodes import ErrorCode, OpCode, Perms
from zkpy_protocol.records import (
    decode_create_request,
    decode_delete_request,
    decode_set_acl_request,
    decode_set_data_request,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkpy.core.acl import AccessRules
    from zkpy.core.data_tree import DataTree
    from zkpy_protocol.records import ACL


class EarlyRefusal(Request):
    """The answer to a request that was refused. Compat: the zxid in its header is 0."""

    __slots__ = ()


class EagerAclCheck:
    """Judges writes by one tree."""

    __slots__ = ("_access", "_tree")

    def __init__(self, tree: DataTree, access: AccessRules) -> None:
        self._tree = tree
        self._access = access

    def refusal(self, request: Request) -> EarlyRefusal | None:
        """The answer of a write that may not be; None when it may go on."""
        err = self._error(request)
        if not err:
            return None
        early = EarlyRefusal(
            request.link,
            request.session_id,
            request.xid,
            request.op,
            request.frame,
            request.ids,
            request.arrival_ms,
        )
        early.err = err
        return early

    def _error(self, request: Request) -> int:
        frame = request.frame
        op = request.op
        try:
            if op in (OpCode.CREATE, OpCode.CREATE2):
                create, _ = decode_create_request(frame, HEADER_BYTES)
                return self._check(request, _parent(create.path), Perms.CREATE, create.acl, sets_acl=True)
            if op == OpCode.DELETE:
                delete, _ = decode_delete_request(frame, HEADER_BYTES)
                return self._check(request, _parent(delete.path), Perms.DELETE)
            if op == OpCode.SET_DATA:
                set_data, _ = decode_set_data_request(frame, HEADER_BYTES)
                return self._check(request, set_data.path, Perms.WRITE)
            if op == OpCode.SET_ACL:
                set_acl, _ = decode_set_acl_request(frame, HEADER_BYTES)
                return self._check(request, set_acl.path, Perms.ADMIN, set_acl.acl, sets_acl=True)
        except DecodeError:
            pass
        return 0

    def _check(
        self,
        request: Request,
        path: str | None,
        perm: int,
        acl: Sequence[ACL] | None = None,
        *,
        sets_acl: bool = False,
    ) -> int:
        """0, or the error. An ACL that is to be set is looked at first."""
        if path is None:
            return 0
        if sets_acl:
            try:
                self._access.fix_up(acl, request.ids)
            except KeeperError as error:
                return error.code if error.code == ErrorCode.INVALIDACL else 0
        node = self._tree.get(path)
        if node is None or self._access.allows(node.acl, perm, request.ids):
            return 0
        return ErrorCode.NOAUTH


def _parent(path: str | None) -> str | None:
    """None for what cannot be created or deleted."""
    if path is None or "/" not in path or "\0" in path or path in paths.RESERVED:
        return None
    return paths.parent_of(path)
