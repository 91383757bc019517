"""A ledger that knows less than its journal is refused: it would buy again what the journal says was bought.

A deleted database, one restored from an old copy, an empty one in its place: all look like a project where
nothing was ever sent. The journal beside it knows better. The rule: the run and shard of its newest line
are in the ledger, because a shard is committed before the first line about it is written. Whoever finds
them missing stops before anything is made, read or sent; `run rebuild` is the way on. Where the journal is
gone as well, result files that lie beside it tell the same.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, bindparam, select

from runner.errors import LedgerError
from runner.ledger.bulk import Query
from runner.ledger.engine import is_sqlite
from runner.ledger.facts import ShardFact, read_fact
from runner.ledger.faults import REBUILD, RESTORE
from runner.ledger.journal import Journal
from runner.ledger.place import LedgerPlace
from runner.ledger.tables import run, shard


def newest_fact(place: LedgerPlace) -> ShardFact | None:
    """What the journal knows last of a shard; None where nothing was ever sent."""
    facts = map(read_fact, Journal(place.journal, ledger=place.name).latest())
    return next((fact for fact in facts if fact is not None), None)


def refuse_missing(place: LedgerPlace, where: str) -> None:
    """There is no ledger. Errors: LedgerError if the journal says that there was one."""
    newest = newest_fact(place)
    if newest is not None:
        raise LedgerError(
            f"{where}: the ledger is gone, but {place.journal} says that shards were sent (the last one "
            f"on {newest.at}); without it they would be paid again",
            next_step=REBUILD,
        )
    is_usual = not place.name  # others may share the folder, and what lies in it
    if is_usual and not place.journal.exists() and (left := _left_behind(place)):
        raise LedgerError(
            f"{where}: ledger and journal are gone, but {left} holds what was sent or answered; without them "
            "it would be paid again",
            next_step=REBUILD,
        )


def _left_behind(place: LedgerPlace) -> Path | None:
    """The folder that knows of an earlier ledger of this place."""
    for folder in (place.folder / "raw", place.folder / "requests"):
        if folder.is_dir() and next(folder.iterdir(), None) is not None:
            return folder
    return None


_KNOWN = Query(
    select(shard.c.id)
    .join(run, run.c.id == shard.c.run_id)
    .where(run.c.uid == bindparam("of_run"), shard.c.slot == bindparam("at_slot")),
    *("of_run", "at_slot"),
)


def refuse_forgetful(engine: Engine, place: LedgerPlace, where: str) -> None:
    """Errors: LedgerError if the ledger does not know the shard that the journal names last."""
    newest = newest_fact(place)
    if newest is None:
        return
    with engine.connect() as connection:
        found = _KNOWN.first(connection, newest.run, newest.slot)
    if found is None:
        raise LedgerError(
            f"{where}: the ledger is empty or an old copy: it does not know what {place.journal} says was "
            f"sent last (on {newest.at}); with it that would be paid again",
            next_step=REBUILD if is_sqlite(engine) else RESTORE,
        )
