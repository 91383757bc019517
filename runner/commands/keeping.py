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

A row that asks what it asked is kept too where its request has failed for good or is on its way: the ledger
is asked of each of these how it stands. Where only the data changed (`incremental`), a row that does not
differ asks what it asked, and is not even rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from itertools import compress

from runner.commands.rendering import NO_FINGERPRINT, Piece
from runner.core.identity import FINGERPRINT_BYTES
from runner.core.planning import Held, Standing
from runner.ledger import LastColumns, LastRow, Ledger, Staging, without_collector

StandingOf = Callable[[Sequence[LastRow]], Iterable[tuple[LastRow, Standing]]]
"""How requests stand that rows of the last run want; rows that are left out are compared."""
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

    def others(self, piece: Piece, standing_of: StandingOf) -> Sequence[int]:
        """The places in the piece whose rows are not kept; the others are dealt with."""
        start, count = piece.start, len(piece.keys)
        last = self._ledger.last_columns(self._manifest_id, start, start + count)
        if last is None:
            return range(count)
        same = _asking_the_same(piece, last)
        keeps = [bool(one and is_settled) for one, is_settled in zip(same, last.settled, strict=True)]
        positions = set(compress(last.positions, keeps))
        if positions:
            self._count(list(compress(last.request_ids, keeps)), max(positions), Standing.ANSWERED)  # type: ignore[arg-type]
        if len(positions) == count:
            return ()
        rest = [place for place, is_kept in enumerate(keeps) if not is_kept]
        asking = {last.positions[place] for place in rest if same[place]}
        positions |= self.keep_idle(last.rows(rest), asking, standing_of)
        return [place for place in range(count) if start + place not in positions]

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

    def keep_idle(self, last: Sequence[LastRow], same: Container[int], standing_of: StandingOf) -> set[int]:
        """Of these rows of the last run keep those that ask the `same` (positions) and need nothing; the rest
        is compared. Gives the positions that are kept."""
        asked = [row for row in last if row.fingerprint is not None and row.position in same]
        kept: set[int] = set()
        for row, standing in standing_of(asked):
            if standing is not Standing.TO_SEND:
                self._count([row.request_id or 0], row.position, standing)
                kept.add(row.position)
        self._staging.add_previous([row for row in last if row.position not in kept])
        return kept

    def _count(self, request_ids: Sequence[int], last: int, standing: Standing) -> None:
        self._staging.keep(request_ids, last, standing)
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


def _asking_the_same(piece: Piece, last: LastColumns) -> list[bool]:
    """For each of these rows of the last run whether the piece's row at its position asks the same, under the
    same key."""
    count = len(piece.keys)
    is_whole = (
        len(last.positions) == count
        and last.positions[0] == piece.start
        and last.positions[-1] == piece.start + count - 1
        and b"".join([one or NO_FINGERPRINT for one in last.fingerprints]) == piece.fingerprints
        and list(last.keys) == piece.keys
    )
    if is_whole:
        return [True] * count
    return [_is_same(piece, *row) for row in zip(last.positions, last.keys, last.fingerprints, strict=True)]


def _is_same(piece: Piece, position: int, key: str, fingerprint: bytes | None) -> bool:
    place = position - piece.start
    first = place * FINGERPRINT_BYTES
    return (
        piece.keys[place] == key
        and piece.line_bytes[place] > 0
        and piece.fingerprints[first : first + FINGERPRINT_BYTES] == fingerprint
    )


def _note(requests: bytearray, ids: Sequence[int]) -> None:
    """One byte for each request there is."""
    if ids and (lacking := max(ids) + 1 - len(requests)) > 0:
        requests.extend(bytes(lacking))
    for request_id in ids:
        requests[request_id] = 1
