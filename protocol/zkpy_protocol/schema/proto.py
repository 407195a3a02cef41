"""Module `org.apache.zookeeper.proto`: what clients and servers say to each other, requests beside their responses."""

from __future__ import annotations

from zkpy_protocol.schema.data import ACL, ClientInfo, Stat
from zkpy_protocol.schema.primitives import Boolean, Buffer, Int, Long, Trailing, Ustring, Vector, record

# The first frame in each direction has no header. Clients up to 3.3 leave `read_only` out, and so must their answer.
ConnectRequest = record(
    "ConnectRequest",
    protocol_version=Int,
    last_zxid_seen=Long,
    time_out=Int,
    session_id=Long,
    passwd=Buffer,
    read_only=Trailing(Boolean),
)
ConnectResponse = record(
    "ConnectResponse",
    protocol_version=Int,
    time_out=Int,
    session_id=Long,
    passwd=Buffer,
    read_only=Trailing(Boolean),
)

RequestHeader = record("RequestHeader", xid=Int, type=Int)
ReplyHeader = record("ReplyHeader", xid=Int, zxid=Long, err=Int)
MultiHeader = record("MultiHeader", type=Int, done=Boolean, err=Int)
ErrorResponse = record("ErrorResponse", err=Int)

CreateRequest = record("CreateRequest", path=Ustring, data=Buffer, acl=Vector(ACL), flags=Int)
CreateTTLRequest = record("CreateTTLRequest", path=Ustring, data=Buffer, acl=Vector(ACL), flags=Int, ttl=Long)
CreateResponse = record("CreateResponse", path=Ustring)
Create2Response = record("Create2Response", path=Ustring, stat=Stat)

DeleteRequest = record("DeleteRequest", path=Ustring, version=Int)
DeleteContainerRequest = record("DeleteContainerRequest", path=Ustring)

ExistsRequest = record("ExistsRequest", path=Ustring, watch=Boolean)
ExistsResponse = record("ExistsResponse", stat=Stat)

GetDataRequest = record("GetDataRequest", path=Ustring, watch=Boolean)
GetDataResponse = record("GetDataResponse", data=Buffer, stat=Stat)

SetDataRequest = record("SetDataRequest", path=Ustring, data=Buffer, version=Int)
SetDataResponse = record("SetDataResponse", stat=Stat)

GetACLRequest = record("GetACLRequest", path=Ustring)
GetACLResponse = record("GetACLResponse", acl=Vector(ACL), stat=Stat)

# `version` is compared with the node's aversion.
SetACLRequest = record("SetACLRequest", path=Ustring, acl=Vector(ACL), version=Int)
SetACLResponse = record("SetACLResponse", stat=Stat)

GetChildrenRequest = record("GetChildrenRequest", path=Ustring, watch=Boolean)
GetChildrenResponse = record("GetChildrenResponse", children=Vector(Ustring))
GetChildren2Request = record("GetChildren2Request", path=Ustring, watch=Boolean)
GetChildren2Response = record("GetChildren2Response", children=Vector(Ustring), stat=Stat)

GetAllChildrenNumberRequest = record("GetAllChildrenNumberRequest", path=Ustring)
GetAllChildrenNumberResponse = record("GetAllChildrenNumberResponse", total_number=Int)

GetEphemeralsRequest = record("GetEphemeralsRequest", prefix_path=Ustring)
GetEphemeralsResponse = record("GetEphemeralsResponse", ephemerals=Vector(Ustring))

SyncRequest = record("SyncRequest", path=Ustring)
SyncResponse = record("SyncResponse", path=Ustring)

CheckVersionRequest = record("CheckVersionRequest", path=Ustring, version=Int)

# Answered with a GetDataResponse: the new configuration and the Stat of its node.
ReconfigRequest = record(
    "ReconfigRequest",
    joining_servers=Ustring,
    leaving_servers=Ustring,
    new_members=Ustring,
    cur_config_id=Long,
)

AuthPacket = record("AuthPacket", type=Int, scheme=Ustring, auth=Buffer)
GetSASLRequest = record("GetSASLRequest", token=Buffer)
SetSASLResponse = record("SetSASLResponse", token=Buffer)

SetWatches = record(
    "SetWatches",
    relative_zxid=Long,
    data_watches=Vector(Ustring),
    exist_watches=Vector(Ustring),
    child_watches=Vector(Ustring),
)
SetWatches2 = record(
    "SetWatches2",
    relative_zxid=Long,
    data_watches=Vector(Ustring),
    exist_watches=Vector(Ustring),
    child_watches=Vector(Ustring),
    persistent_watches=Vector(Ustring),
    persistent_recursive_watches=Vector(Ustring),
)
# Answered with an ErrorResponse.
AddWatchRequest = record("AddWatchRequest", path=Ustring, mode=Int)
CheckWatchesRequest = record("CheckWatchesRequest", path=Ustring, type=Int)
RemoveWatchesRequest = record("RemoveWatchesRequest", path=Ustring, type=Int)

WhoAmIResponse = record("WhoAmIResponse", client_info=Vector(ClientInfo))

WatcherEvent = record("WatcherEvent", type=Int, state=Int, path=Ustring)
