"""Rows that are what they were in the last run, and need nothing: nothing of them is compared but that.

Theory
------
A manifest's rows in the ledger are those of its last run. A row that stands at the same position with the
same key and the same fingerprint, whose request has succeeded and was not asked since, is unchanged and
answered whatever else the plan says, as long as nothing that is answered is asked again. So a piece is laid
beside the same places of the last run, and what is equal there is counted and forgotten: no look into the
index of fingerprints, nothing staged, nothing looked at again when the plan is recorded. All other rows, and
the rows of before in their places, go the general way (a property test compares the two); keys are used once
each, so none of those can be the pair of a kept row.

Where only the data changed (`incremental`), a row that does not differ asks what it asked: it is kept too
where its request has failed for good or is on its way, as the ledger says of each of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress

from runner.commands.rendering import Piece
from runner.core.identity import FINGERPRINT_BYTES
from runner.core.planning import Held, Standing
from runner.ledger import LastColumns, LastRow, Ledger, Staging, without_collector

_SLICE_ROWS = 10_000


class Keeper:
    """Lays pieces, in order, beside the rows of the last run."""

    def __init__(self, ledger: Ledger, manifest_id: int, staging: Staging) -> None:
        self._ledger = ledger
        self._manifest_id = manifest_id
        self._staging = staging
        self._kept_requests = bytearray()
        self._other_requests = bytearray()
        self._kept = 0

    def others(self, piece: Piece) -> Sequence[int]:
        """The places in the piece whose rows are not kept; the others are dealt with."""
        start, count = piece.start, len(piece.keys)
        columns = self._ledger.last_columns(self._manifest_id, start, start + count)
        if columns is None:
            return range(count)
        if _is_same(piece, columns):
            self._count(list(filter(None, columns.request_ids)), columns.positions[-1], Standing.ANSWERED)
            return ()
        last = columns.rows()
        kept = [row for row in last if _is_kept(piece, row)]
        if kept:
            self._count([row.request_id or 0 for row in kept], kept[-1].position, Standing.ANSWERED)
        places = {row.position - start for row in kept}
        self._staging.add_previous([row for row in last if row.position - start not in places])
        return [place for place in range(count) if place not in places]

    def keep_settled(self, start: int, stop: int, differs: bytearray) -> list[int]:
        """Of the positions [start, stop), of which nothing is rendered, keep those that are settled and don't
        differ (see `incremental`); gives the others."""
        with without_collector():  # what is read here is gone at the end
            positions, request_ids = self._ledger.settled_rows(self._manifest_id, start, stop)
            if differs.find(1, start, stop) >= 0:
                stays = [not differs[position] for position in positions]
                positions, request_ids = (list(compress(one, stays)) for one in (positions, request_ids))
            if positions:
                self._count(request_ids, positions[-1], Standing.ANSWERED)
            if len(positions) == stop - start:
                return []
            return sorted(set(range(start, stop)).difference(positions))

    def last_rows_at(self, positions: Sequence[int]) -> list[LastRow]:
        """The last run's rows at these places."""
        return self._ledger.last_rows_at(self._manifest_id, positions)

    def keep_standing(self, rows: Iterable[tuple[LastRow, Standing]]) -> None:
        """Keep rows for which nothing is to be done, each as its request stands."""
        for row, standing in rows:
            self._count([row.request_id or 0], row.position, standing)

    def leave(self, rows: Sequence[LastRow]) -> None:
        """These rows of the last run are not kept."""
        self._staging.add_previous(rows)

    def _count(self, request_ids: Sequence[int], last: int, standing: Standing) -> None:
        self._staging.keep(len(request_ids), last, standing)
        _note(self._kept_requests, request_ids)
        self._kept += len(request_ids)

    def note(self, held: Iterable[Held]) -> None:
        """Requests that rows want which are not kept."""
        _note(self._other_requests, [known.request_id for known in held])

    def finish(self, rows: int) -> None:
        """The plan has so many rows: what the last run had beyond them."""
        while last := self._ledger.last_rows(self._manifest_id, rows, rows + _SLICE_ROWS):
            self._staging.add_previous(last)
            rows += _SLICE_ROWS

    def duplicates(self) -> int:
        """How many rows have the request of a kept one, beside those among the others themselves."""
        kept, others = self._kept_requests, self._other_requests
        shared = int.from_bytes(kept, "little") & int.from_bytes(others, "little")
        return self._kept - kept.count(1) + shared.bit_count()


def _is_same(piece: Piece, last: LastColumns) -> bool:
    """Whether every row of a piece is kept."""
    count = len(piece.keys)
    return (
        len(last.positions) == count
        and all(last.settled)
        and last.positions[0] == piece.start
        and last.positions[-1] == piece.start + count - 1
        and b"".join(filter(None, last.fingerprints)) == piece.fingerprints
        and list(last.keys) == piece.keys
    )


def _is_kept(piece: Piece, row: LastRow) -> bool:
    """Whether the row of the piece at this position is this one of the last run."""
    place = row.position - piece.start
    first = place * FINGERPRINT_BYTES
    return (
        bool(row.is_settled)
        and piece.line_bytes[place] > 0
        and piece.keys[place] == row.key
        and piece.fingerprints[first : first + FINGERPRINT_BYTES] == row.fingerprint
    )


def _note(requests: bytearray, ids: Sequence[int]) -> None:
    """One byte for each request there is."""
    if ids and (lacking := max(ids) + 1 - len(requests)) > 0:
        requests.extend(bytes(lacking))
    for request_id in ids:
        requests[request_id] = 1
