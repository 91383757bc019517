"""Whole blocks of requests that nobody wanted before: requests, attempts and rows, by column.

Theory
------
What a plan costs in a new ledger is mostly the index of the fingerprints: random values, each of which must
find its place. Sorting all of them once takes less than half of that (measured, a million: 1.5 s of 7.4), so
where a plan adds much to what there is, the index is dropped first and built anew behind the requests, in the
same transaction: nobody else sees it gone, and a fingerprint that stands twice is found as before. Where a
database would let readers wait for that, the index stays.

Without the index nothing can be looked for. So all blocks come before all other rows, and whether a request
of them is known is asked before: such a block is left to be looked into row by row.

Ids go by position: who walks through a manifest's rows finds their requests one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import repeat

from sqlalchemy import Connection

from runner.ledger import unpacking
from runner.ledger.engine import hides_a_dropped_index
from runner.ledger.plan_statements import ADD_ATTEMPT, ADD_REQUEST, ADD_ROW, HELD
from runner.ledger.records import PackedBlock, StagedBlock
from runner.ledger.staging import Staging
from runner.ledger.tables import ONE_FINGERPRINT

INDEX_FROM_ROWS = 10_000
"""So many new requests, and at least a quarter of those there are, are worth a new index."""
Named = tuple[int | None, str | None]
"""A request's id, and its name once nothing changes it any more: rows whose key equals it leave theirs
out. Plain, because there is one for every row."""


def named_by(block: StagedBlock, first_id: int) -> dict[bytes, Named]:
    """Each fingerprint's request."""
    named = zip(range(first_id, first_id + len(block)), block.names, strict=True)
    return dict(zip(block.marks(), named, strict=True))


class BlockWriter:
    """Writes blocks inside the caller's transaction. `shard_ids` maps slots to shards."""

    def __init__(self, connection: Connection, manifest_id: int, shard_ids: Mapping[int, int]) -> None:
        self._connection = connection
        self._manifest_id = manifest_id
        self._shard_ids = shard_ids
        self._unpacks = unpacking.is_able(connection)
        self._first_ids: dict[int, int] = {}

    def place(self, staging: Staging, next_id: int) -> int:
        """Requests and attempts of every block of which no request is known; gives the next id."""
        known = self._known(staging) if next_id > 1 else set()
        rows = staging.rows_in_blocks()
        is_worth_it = rows >= INDEX_FROM_ROWS and rows * 4 >= next_id
        makes_index = is_worth_it and hides_a_dropped_index(self._connection)
        if makes_index:
            ONE_FINGERPRINT.drop(self._connection)
        for block in staging.blocks():
            if block.ends[0] not in known:
                self._first_ids[block.ends[0]] = next_id
                self._add(block, next_id)
                next_id += len(block)
        if makes_index:
            ONE_FINGERPRINT.create(self._connection)
        return next_id

    def first_id(self, block: PackedBlock) -> int | None:
        """The id of its first request; None where it was left."""
        return self._first_ids.get(block.ends[0])

    def _known(self, staging: Staging) -> set[int]:
        """Blocks, by their first position, of which a request is known by now."""
        return {
            block.ends[0]
            for block in staging.blocks()
            if HELD.rows(self._connection, sorted(block.unpacked().marks()))
        }

    def _add(self, block: PackedBlock, first_id: int) -> None:
        if self._unpacks and unpacking.is_plain(block):
            unpacking.add_requests(self._connection, block, first_id, self._shard_ids)
            return
        rows = block.unpacked()
        ids = range(first_id, first_id + len(rows))
        shard_ids = [self._shard_ids[slot] for slot in rows.slots()]
        lines = list(rows.lines())
        ADD_REQUEST.run(self._connection, zip(ids, rows.marks(), rows.names, repeat(1), shard_ids, lines))
        ADD_ATTEMPT.run(self._connection, zip(shard_ids, lines, ids, repeat(1)))

    def add_rows(self, block: PackedBlock, first_id: int) -> None:
        """The rows of a block, where none stands."""
        if self._unpacks and unpacking.has_plain_rows(block):
            unpacking.add_rows(self._connection, self._manifest_id, block, first_id)
            return
        rows = block.unpacked()
        keys: Iterable[str | None] = repeat(None)
        if rows.names is not rows.keys:
            keys = (None if name == key else key for key, name in zip(rows.keys, rows.names, strict=True))
        ids = range(first_id, first_id + len(rows))
        ADD_ROW.run(self._connection, zip(repeat(self._manifest_id), rows.positions, keys, ids))
