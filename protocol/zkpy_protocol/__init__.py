"""The bytes of ZooKeeper: records, frames, links and txn payloads.

Architecture invariant: nothing in here does I/O, knows a clock or imports zkpy; it can be used alone. `schema` and `codegen`
need construct and are for building and testing; what runs is `records` and the hand-written modules beside it.
"""
