"""Module `org.apache.zookeeper.txn`: what the transaction log and proposals hold.

A payload is TxnHeader, the record of its type and (usually) a TxnDigest; `zkpy_protocol.txns` puts them together.
"""

from __future__ import annotations

from zkpy_protocol.schema.data import ACL
from zkpy_protocol.schema.primitives import Boolean, Buffer, Int, Long, Ustring, Vector, record

TxnHeader = record("TxnHeader", client_id=Long, cxid=Int, zxid=Long, time=Long, type=Int)
TxnDigest = record("TxnDigest", version=Int, tree_digest=Long)

# `parent_c_version` is the parent's stored cversion after the create. Logs from before 3.4 end before it.
CreateTxnV0 = record("CreateTxnV0", path=Ustring, data=Buffer, acl=Vector(ACL), ephemeral=Boolean)
CreateTxn = record(
    "CreateTxn", path=Ustring, data=Buffer, acl=Vector(ACL), ephemeral=Boolean, parent_c_version=Int
)
CreateTTLTxn = record(
    "CreateTTLTxn", path=Ustring, data=Buffer, acl=Vector(ACL), parent_c_version=Int, ttl=Long
)
CreateContainerTxn = record(
    "CreateContainerTxn", path=Ustring, data=Buffer, acl=Vector(ACL), parent_c_version=Int
)
DeleteTxn = record("DeleteTxn", path=Ustring)
SetDataTxn = record("SetDataTxn", path=Ustring, data=Buffer, version=Int)
SetACLTxn = record("SetACLTxn", path=Ustring, acl=Vector(ACL), version=Int)
CheckVersionTxn = record("CheckVersionTxn", path=Ustring, version=Int)
ErrorTxn = record("ErrorTxn", err=Int)
CreateSessionTxn = record("CreateSessionTxn", time_out=Int)
CloseSessionTxn = record("CloseSessionTxn", paths2_delete=Vector(Ustring))

# `data` is the record of the sub-operation.
Txn = record("Txn", type=Int, data=Buffer)
MultiTxn = record("MultiTxn", txns=Vector(Txn))
