"""Events: what happened to shards and runs, in the order in which it was recorded. They are only ever added.

Some carry facts that no other table has: with which key a create was intended, a wish to stop, further
batches that the server made of one create (those are noted in the side journal too).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, insert, select

from runner.core.states import Submission
from runner.ledger.bulk import Bulk
from runner.ledger.journal import Journal
from runner.ledger.tables import event
from runner.ledger.times import iso

CANCEL_REQUESTED = "cancel requested"
"""The event of a wish to stop a batch."""
CREATE_INTENDED = "create intended"
"""What the event of a create-intent says; its detail is the digest of the key, salted with the run."""
EXTRA_BATCH, EXTRA_OUTPUT = "extra batch", "extra output"
"""Further batches that the server made of one create, and their output files: incidents."""
_EVENT_COLUMNS = ("at", "run_id", "shard_id", "what", "detail")
_ADD_EVENT = Bulk(insert(event).values({name: bindparam(name) for name in _EVENT_COLUMNS}), *_EVENT_COLUMNS)


def add_event(
    connection: Connection, *, what: str, detail: str, run_id: int | None, shard_id: int | None, now_s: float
) -> None:
    """Something happened. Events are only ever added."""
    _ADD_EVENT.run(connection, [(iso(now_s), run_id, shard_id, what, detail)])


def note_extras(
    connection: Connection,
    journal: Journal,
    submission: Submission,
    what: str,
    ids: Sequence[str],
    *,
    run_id: int | None,
    now_s: float,
) -> None:
    """Ids of extra batches or of their output files, each once: in the journal, and as events."""
    known = load_details(connection, submission.shard_id, what)
    for found in ids:
        if found in known:
            continue
        marks = {"run": submission.run, "of_slot": submission.slot, "attempt": submission.attempt}
        journal.append({"at": iso(now_s), "what": what, **marks, "id": found})
        add_event(
            connection, what=what, detail=found, run_id=run_id, shard_id=submission.shard_id, now_s=now_s
        )


def load_details(connection: Connection, shard_id: int, what: str) -> list[str]:
    """What a shard's events of one kind say, the first one first."""
    query = select(event.c.detail).where(event.c.shard_id == shard_id, event.c.what == what)
    return list(connection.execute(query.order_by(event.c.id)).scalars())
