"""Numbers of the wire: operations, error codes, event types, states, permissions and create flags.

Plain integers grouped in classes: reading a member is one attribute load and comparing it is an int comparison, which an
IntEnum cannot match on CPython 3.11. Nothing here is ever instantiated.
"""

from __future__ import annotations

from typing import Final


class OpCode:
    """`type` of a RequestHeader, of a MultiHeader and of a TxnHeader."""

    NOTIFICATION: Final = 0
    CREATE: Final = 1
    DELETE: Final = 2
    EXISTS: Final = 3
    GET_DATA: Final = 4
    SET_DATA: Final = 5
    GET_ACL: Final = 6
    SET_ACL: Final = 7
    GET_CHILDREN: Final = 8
    SYNC: Final = 9
    PING: Final = 11
    GET_CHILDREN2: Final = 12
    CHECK: Final = 13
    MULTI: Final = 14
    CREATE2: Final = 15
    RECONFIG: Final = 16
    CHECK_WATCHES: Final = 17
    REMOVE_WATCHES: Final = 18
    CREATE_CONTAINER: Final = 19
    DELETE_CONTAINER: Final = 20
    CREATE_TTL: Final = 21
    MULTI_READ: Final = 22
    AUTH: Final = 100
    SET_WATCHES: Final = 101
    SASL: Final = 102
    GET_EPHEMERALS: Final = 103
    GET_ALL_CHILDREN_NUMBER: Final = 104
    SET_WATCHES2: Final = 105
    ADD_WATCH: Final = 106
    WHO_AM_I: Final = 107
    CREATE_SESSION: Final = -10
    CLOSE_SESSION: Final = -11
    ERROR: Final = -1


class Xid:
    """Reserved `xid` values of request and reply headers."""

    NOTIFICATION: Final = -1
    PING: Final = -2
    AUTH: Final = -4
    SET_WATCHES: Final = -8


class ErrorCode:
    """`err` of a ReplyHeader and of ErrorResponse, MultiHeader and ErrorTxn."""

    OK: Final = 0
    SYSTEMERROR: Final = -1
    RUNTIMEINCONSISTENCY: Final = -2
    DATAINCONSISTENCY: Final = -3
    CONNECTIONLOSS: Final = -4
    MARSHALLINGERROR: Final = -5
    UNIMPLEMENTED: Final = -6
    OPERATIONTIMEOUT: Final = -7
    BADARGUMENTS: Final = -8
    UNKNOWNSESSION: Final = -12
    NEWCONFIGNOQUORUM: Final = -13
    RECONFIGINPROGRESS: Final = -14
    APIERROR: Final = -100
    NONODE: Final = -101
    NOAUTH: Final = -102
    BADVERSION: Final = -103
    NOCHILDRENFOREPHEMERALS: Final = -108
    NODEEXISTS: Final = -110
    NOTEMPTY: Final = -111
    SESSIONEXPIRED: Final = -112
    INVALIDCALLBACK: Final = -113
    INVALIDACL: Final = -114
    AUTHFAILED: Final = -115
    SESSIONMOVED: Final = -118
    NOTREADONLY: Final = -119
    EPHEMERALONLOCALSESSION: Final = -120
    NOWATCHER: Final = -121
    REQUESTTIMEOUT: Final = -122
    RECONFIGDISABLED: Final = -123
    SESSIONCLOSEDREQUIRESASLAUTH: Final = -124
    QUOTAEXCEEDED: Final = -125
    THROTTLEDOP: Final = -127


class EventType:
    """`type` of a WatcherEvent; a server sends 1 to 4 only."""

    NONE: Final = -1
    NODE_CREATED: Final = 1
    NODE_DELETED: Final = 2
    NODE_DATA_CHANGED: Final = 3
    NODE_CHILDREN_CHANGED: Final = 4
    DATA_WATCH_REMOVED: Final = 5
    CHILD_WATCH_REMOVED: Final = 6
    PERSISTENT_WATCH_REMOVED: Final = 7


class KeeperState:
    """`state` of a WatcherEvent; a server always sends SYNC_CONNECTED."""

    UNKNOWN: Final = -1
    DISCONNECTED: Final = 0
    NO_SYNC_CONNECTED: Final = 1
    SYNC_CONNECTED: Final = 3
    AUTH_FAILED: Final = 4
    CONNECTED_READ_ONLY: Final = 5
    SASL_AUTHENTICATED: Final = 6
    CLOSED: Final = 7
    EXPIRED: Final = -112


class Perms:
    """Bits of `perms` in an ACL; values outside are stored as they come."""

    READ: Final = 1
    WRITE: Final = 2
    CREATE: Final = 4
    DELETE: Final = 8
    ADMIN: Final = 16
    ALL: Final = 31


class CreateFlags:
    """`flags` of the create family: an enumeration despite the name, not bits."""

    PERSISTENT: Final = 0
    EPHEMERAL: Final = 1
    PERSISTENT_SEQUENTIAL: Final = 2
    EPHEMERAL_SEQUENTIAL: Final = 3
    CONTAINER: Final = 4
    PERSISTENT_WITH_TTL: Final = 5
    PERSISTENT_SEQUENTIAL_WITH_TTL: Final = 6


class AddWatchMode:
    """`mode` of an AddWatchRequest."""

    PERSISTENT: Final = 0
    PERSISTENT_RECURSIVE: Final = 1


class WatcherType:
    """`type` of a CheckWatchesRequest and RemoveWatchesRequest."""

    CHILDREN: Final = 1
    DATA: Final = 2
    ANY: Final = 3
    PERSISTENT: Final = 4
    PERSISTENT_RECURSIVE: Final = 5
