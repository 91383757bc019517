"""The local batch server: the batch API on real HTTP, durable on disk, with answers made on this machine.

It behaves as the hosted service is known to behave, quirks included, so that what works here works there.
It keeps its own records of what it accepted and executed (the witness) and can misbehave on request (faults).
It knows nothing of manifests, the ledger or the client: of this package it imports `runner.core` only.

    settings    limits, keys, delays, upstream: one frozen value
    serve       listen, announce, stop;  app: the ASGI application
    routes_*    HTTP in and out; stateless
    lines, uploads, batch_object, content    the rules of the API, room by room
    database, *_table    all SQL; the only home of sqlite3
    executor    the one role that populates and executes; held under a lock file by one process at a time
    answers/    what the local model says; upstream: asking a real one instead
    faults/, fault_gate, fault_sending    misbehaviour by order
"""
