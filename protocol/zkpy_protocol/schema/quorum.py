"""Module `org.apache.zookeeper.server.quorum`: records of the peer port. Election notifications are no jute records."""

from __future__ import annotations

from zkpy_protocol.schema.data import Id
from zkpy_protocol.schema.primitives import Buffer, Int, Long, Trailing, Vector, record

QuorumPacket = record("QuorumPacket", type=Int, zxid=Long, data=Buffer, authinfo=Vector(Id))

# Data of FOLLOWERINFO and OBSERVERINFO: 20 bytes, 12 from 3.4 and 8 (the id alone) from before.
LearnerInfo = record(
    "LearnerInfo", serverid=Long, protocol_version=Trailing(Int), config_version=Trailing(Long)
)

# SASL between servers, on both ports.
QuorumAuthPacket = record("QuorumAuthPacket", magic=Long, status=Int, token=Buffer)
