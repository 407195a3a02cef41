"""Declarations of every jute record, with construct: the single source of truth for bytes.

`codegen.py` walks `ALL_RECORDS` and writes `records.py`; tests compare the two. Nothing else imports this package:
construct is a declaration language here, never a parser of network input.
"""

from __future__ import annotations

from zkpy_protocol.schema import data, persistence, proto, quorum, txn
from zkpy_protocol.schema.primitives import Record

# In the order of declaration, so that a record comes before those that contain it. A dict, because a module's
# namespace also holds the records it imports.
ALL_RECORDS: dict[str, Record] = {
    value.record_name: value
    for module in (data, proto, txn, quorum, persistence)
    for value in vars(module).values()
    if isinstance(value, Record)
}
