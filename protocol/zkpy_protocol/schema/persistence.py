"""Module `org.apache.zookeeper.server.persistence`: the parts of log and snapshot files that are records."""

from __future__ import annotations

from zkpy_protocol.schema.data import StatPersisted
from zkpy_protocol.schema.primitives import Buffer, Int, Long, record

FileHeader = record("FileHeader", magic=Int, version=Int, dbid=Long)

# `acl` is an id of the snapshot's own ACL table.
DataNode = record("DataNode", data=Buffer, acl=Long, stat=StatPersisted)
