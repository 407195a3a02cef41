"""Module `org.apache.zookeeper.data`: identities, access control and the two forms of a znode's Stat."""

from __future__ import annotations

from zkpy_protocol.schema.primitives import Int, Long, Ustring, record

Id = record("Id", scheme=Ustring, id=Ustring)

ACL = record("ACL", perms=Int, id=Id)

# What clients see: 68 bytes.
Stat = record(
    "Stat",
    czxid=Long,
    mzxid=Long,
    ctime=Long,
    mtime=Long,
    version=Int,
    cversion=Int,
    aversion=Int,
    ephemeral_owner=Long,
    data_length=Int,
    num_children=Int,
    pzxid=Long,
)

# What snapshots hold: 60 bytes, without what can be computed.
StatPersisted = record(
    "StatPersisted",
    czxid=Long,
    mzxid=Long,
    ctime=Long,
    mtime=Long,
    version=Int,
    cversion=Int,
    aversion=Int,
    ephemeral_owner=Long,
    pzxid=Long,
)

ClientInfo = record("ClientInfo", auth_scheme=Ustring, user=Ustring)
