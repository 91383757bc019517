"""What is waited out for a shard, and how much of it is behind us: noted for the next process.

An event for each note. Its `what` is the kind, its detail how much is behind us (seconds, or readings) and
the id it is about; without a detail it is over. The newest note of a kind is the one that counts. A rebuilt
ledger knows of none, and all is waited for anew.

Since when no look of a manifest at its server works is no shard's: such an event's detail is the manifest's
id, the server, and the moment; without a moment it is over.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, bindparam, literal_column, select

from runner.core.lasting import Noted
from runner.ledger.bulk import Query
from runner.ledger.events import add_event
from runner.ledger.tables import event
from runner.ledger.times import iso, moment

Transaction = Callable[[], AbstractContextManager[Connection]]


class WaitKind(StrEnum):
    """What must last for a while before it is believed. The words stand in the ledger as they are."""

    BATCH_MISSING = "batch missing"
    FENCE_OPEN = "fence not confirmed"
    CANCELLED = "grace after a cancel"
    LACKING = "read in full, lines lacking"
    EXTRAS_LIVE = "extra batches not stopped"
    EXTRAS_UNREAD = "extra batches not read"
    EXTRAS_CANCELLED = "grace after a cancel of extra batches"


_NOT_WORKING, _WORKING = "server not working", "server works again"
_KINDS: list[ColumnElement[str]] = [literal_column(f"'{kind}'") for kind in WaitKind]
_OF_SHARD = Query(
    select(event.c.what, event.c.at, event.c.detail)
    .where(event.c.shard_id == bindparam("of_shard"), event.c.what.in_(_KINDS))
    .order_by(event.c.id),
    "of_shard",
)
_OUTAGES = Query(
    select(event.c.detail)
    .where(event.c.what.in_([literal_column(f"'{what}'") for what in (_NOT_WORKING, _WORKING)]))
    .order_by(event.c.id.desc())
)


class Waits:
    """The notes of one ledger."""

    def __init__(self, reading: Transaction, writing: Transaction, clock: Callable[[], float]) -> None:
        self._reading = reading
        self._writing = writing
        self._clock = clock

    def noted(self, shard_id: int) -> dict[WaitKind, Noted]:
        """What is waited out for this shard."""
        with self._reading() as connection:
            found = _OF_SHARD.rows(connection, shard_id)
        notes: dict[WaitKind, Noted] = {}
        for what, at, detail in found:
            notes.pop(WaitKind(what), None)
            if detail:
                amount, _, of = detail.partition(" ")
                notes[WaitKind(what)] = Noted(amount=float(amount), of=of, at_s=moment(at).timestamp())
        return notes

    def note(self, shard_id: int, kind: WaitKind, amount: float, of: str) -> Noted:
        """So much of it is behind us now."""
        now_s = self._clock()
        self._add(shard_id, kind, f"{amount:.3f} {of}", now_s)
        return Noted(amount=amount, of=of, at_s=now_s)

    def end(self, shard_id: int, kind: WaitKind) -> None:
        """It is over, or was interrupted: what comes of its kind begins anew."""
        self._add(shard_id, kind, "", self._clock())

    def outage_since(self, manifest_id: int, server: str) -> datetime | None:
        """Since when no look of this manifest at the server works; None where the last one did."""
        about = f"{manifest_id} {server} "
        with self._reading() as connection:
            found = _OUTAGES.rows(connection)
        since = next((detail.removeprefix(about) for (detail,) in found if detail.startswith(about)), "")
        return moment(since) if since else None

    def note_outage(self, manifest_id: int, server: str, since: datetime) -> None:
        """From this moment on none does."""
        self._add(None, _NOT_WORKING, f"{manifest_id} {server} {iso(since.timestamp())}", self._clock())

    def end_outage(self, manifest_id: int, server: str) -> None:
        """One did."""
        self._add(None, _WORKING, f"{manifest_id} {server} ", self._clock())

    def _add(self, shard_id: int | None, what: str, detail: str, now_s: float) -> None:
        with self._writing() as connection:
            add_event(connection, what=what, detail=detail, run_id=None, shard_id=shard_id, now_s=now_s)
