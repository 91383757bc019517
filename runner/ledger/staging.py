"""The plan before it is committed: a scratch file that is thrown away, so that memory stays flat.

The rule: nothing here is worth keeping. The file has no journal and is never synced, and its name is
removed as soon as it is open, so a killed process leaves nothing behind. It is always SQLite, whatever
the ledger is.
"""

from __future__ import annotations

import sqlite3
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runner.core.model import Cause
from runner.core.planning import Standing
from runner.core.wire import decode_json, encode_json
from runner.errors import LedgerError
from runner.ledger.claims import CLAIM_TABLES, Claims
from runner.ledger.faults import translated
from runner.ledger.plan_statements import SLICE_ROWS
from runner.ledger.records import ChangedRow, Comparison, LastRow, PackedBlock, StagedBlock, StagedRow

_WHERE = "the scratch file of the plan"
_CHUNK = 500
_PRAGMAS = """
PRAGMA journal_mode=off; PRAGMA synchronous=off; PRAGMA cache_size=-32768; PRAGMA locking_mode=exclusive;
"""
_TABLES = """
CREATE TABLE staged (
    position INTEGER PRIMARY KEY, key TEXT NOT NULL, fingerprint BLOB, standing TEXT NOT NULL,
    slot INTEGER, line INTEGER, error_class TEXT, name TEXT, attempts INTEGER NOT NULL, status TEXT,
    error_code TEXT, error_message TEXT
);
CREATE TABLE block (
    first INTEGER PRIMARY KEY, rows INTEGER NOT NULL, positions BLOB NOT NULL, keys BLOB NOT NULL,
    fingerprints BLOB NOT NULL, names BLOB, places BLOB NOT NULL
);
CREATE TABLE previous (position INTEGER PRIMARY KEY, key TEXT NOT NULL, fingerprint BLOB);
"""
_ADD = """
INSERT INTO staged (position, key, fingerprint, standing, slot, line, error_class, name, attempts, status)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_SLICE = """
SELECT position, key, fingerprint, standing, slot, line, error_class, name, attempts, status,
    error_code, error_message
FROM staged WHERE position > ? AND position < ? ORDER BY position LIMIT ?
"""
_NO_END = 2**63 - 1
_ADD_CAUSE = "INSERT INTO staged VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_BLOCK = "INSERT INTO block VALUES (?, ?, ?, ?, ?, ?, ?)"
_BLOCK = """
SELECT positions, keys, fingerprints, names, places FROM block WHERE first > ? ORDER BY first LIMIT 1
"""
# Rows that kept their place are compared by place; only the others need to be sorted by key.
_COMPARE_IN_PLACE = """
SELECT count(*),
    coalesce(sum(staged.fingerprint IS previous.fingerprint), 0),
    coalesce(sum(staged.fingerprint IS previous.fingerprint AND staged.standing = 'unasked'), 0)
FROM staged JOIN previous ON previous.position = staged.position WHERE previous.key = staged.key
"""
_MOVED = """
CREATE TABLE moved AS SELECT staged.key, staged.fingerprint, staged.standing FROM staged
LEFT JOIN previous ON previous.position = staged.position AND previous.key = staged.key
WHERE previous.position IS NULL;
CREATE TABLE moved_before AS SELECT previous.key, previous.fingerprint FROM previous
LEFT JOIN staged ON staged.position = previous.position AND staged.key = previous.key
WHERE staged.position IS NULL;
CREATE INDEX moved_before_by_key ON moved_before (key);
"""
_COMPARE_MOVED = """
SELECT count(*),
    coalesce(sum(moved.fingerprint IS moved_before.fingerprint), 0),
    coalesce(sum(moved.fingerprint IS moved_before.fingerprint AND moved.standing = 'unasked'), 0)
FROM moved JOIN moved_before ON moved_before.key = moved.key
"""

_CHANGED_IN_PLACE = """
SELECT staged.key, staged.position, previous.position
FROM staged JOIN previous ON previous.position = staged.position
WHERE previous.key = staged.key AND staged.fingerprint IS NOT previous.fingerprint
ORDER BY staged.position LIMIT ?
"""
_CHANGED_AND_MOVED = """
SELECT staged.key, staged.position, previous.position
FROM staged JOIN previous ON previous.key = staged.key
WHERE previous.position <> staged.position AND staged.fingerprint IS NOT previous.fingerprint
ORDER BY staged.position LIMIT ?
"""
_CHANGED_AMONG_TOUCHED = """
SELECT count(*) FROM touched
JOIN staged ON staged.position BETWEEN touched.position * ?1 AND touched.position * ?1 + ?1 - 1
JOIN previous ON previous.key = staged.key WHERE staged.fingerprint IS NOT previous.fingerprint
"""
_LEFT_OUT = """
SELECT previous.fingerprint FROM staged JOIN previous ON previous.key = staged.key
WHERE staged.standing = 'unasked' AND staged.slot IS NULL
    AND staged.fingerprint NOT IN (SELECT fingerprint FROM claimed)
    AND previous.fingerprint IS NOT NULL AND previous.fingerprint <> staged.fingerprint
"""
# Repeats of rows that both have, beyond the number that only one of them has.
_BY_REPEATS = """
SELECT count(*) FROM {more} AS one
JOIN {more} AS first ON first.position = one.position - one.position % ?1
WHERE one.position % ?1 >= ?2 AND EXISTS (SELECT 1 FROM {fewer} WHERE {fewer}.key = first.key)
"""
# What stands in blocks is claimed, and nothing is claimed that no row wants.
_DUPLICATES = """
SELECT (SELECT count(fingerprint) FROM staged) + (SELECT coalesce(sum(rows), 0) FROM block)
    - (SELECT count(*) FROM (
        SELECT 1 FROM staged WHERE fingerprint IS NOT NULL
        AND fingerprint NOT IN (SELECT fingerprint FROM claimed) GROUP BY fingerprint
    )) - (SELECT count(*) FROM claimed)
"""
_INDEX_STAGED = "CREATE INDEX IF NOT EXISTS staged_by_key ON staged (key)"
_INDEX_PREVIOUS = "CREATE INDEX IF NOT EXISTS previous_by_key ON previous (key)"


class Staging:
    """A context manager; made by `Staging.create`. One thread uses it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._claims = Claims(connection)
        self._blocks = 0
        self._standings: Counter[str] = Counter()
        self._kept = 0
        self.last_kept = -1
        """The last position of a row that is kept; -1: none is. Where one is, every position up to the plan's
        last is that of a row, staged or kept."""
        self.awaited = array("q")
        """The requests of rows that are kept because they are on their way."""

    @classmethod
    def create(cls, folder: Path) -> Self:
        """A new, empty scratch file in `folder` (on the disk of the ledger: /tmp may be memory)."""
        try:
            with (
                tempfile.NamedTemporaryFile(dir=folder, prefix="plan-", suffix=".db") as scratch,
                translated(_WHERE),
            ):
                connection = sqlite3.connect(scratch.name, isolation_level=None, check_same_thread=False)
                connection.executescript(_PRAGMAS + _TABLES + CLAIM_TABLES)
        except OSError as error:
            raise LedgerError(
                f"{folder}: a scratch file can't be made: {error.strerror}",
                next_step="free some disk space or fix the permissions of the .runner folder",
            ) from error
        return cls(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Throw it away."""
        self._claims.rest()
        self._connection.close()

    # ------------------------------------------------------------ filling

    def add_rows(self, rows: Sequence[StagedRow]) -> None:
        """Rows of the plan, in any order; each position once."""
        self._standings.update([row.standing for row in rows])
        with translated(_WHERE):
            self._connection.execute("BEGIN")
            self._connection.executemany(_ADD, [row for row in rows if row.cause is None])
            self._connection.executemany(_ADD_CAUSE, [_flat(row) for row in rows if row.cause is not None])
            self._connection.execute("COMMIT")

    def add_block(self, block: StagedBlock) -> None:
        """Rows of the plan, as `add_rows`; their fingerprints have been claimed. Blocks don't overlap."""
        if not block.positions:
            return
        self._standings[Standing.UNASKED.value] += len(block)
        self._blocks += 1
        names = None if block.names is block.keys else encode_json(block.names)
        columns = (
            array("Q", block.positions).tobytes(),
            encode_json(block.keys),
            block.fingerprints,
            names,
            encode_json(block.places),
        )
        with translated(_WHERE):
            self._connection.execute(_ADD_BLOCK, (block.positions[0], len(block), *columns))

    def claim(self, fingerprints: Sequence[bytes]) -> list[bool]:
        """For each fingerprint whether this is the first time it is claimed; for good.

        Right for duplicates inside one call too: the first of them is True.
        """
        with translated(_WHERE):
            return self._claims.claim(fingerprints)

    def load_previous(self, chunks: Iterable[Sequence[tuple[str, bytes | None]]]) -> None:
        """The manifest's rows of before, as `Ledger.previous_rows` streams them."""
        start = 0
        with translated(_WHERE):
            for chunk in chunks:
                self._connection.execute("BEGIN")
                rows = [(start + place, *values) for place, values in enumerate(chunk)]
                self._connection.executemany("INSERT INTO previous VALUES (?, ?, ?)", rows)
                self._connection.execute("COMMIT")
                start += len(rows)

    def add_previous(self, rows: Iterable[LastRow]) -> None:
        """Some of the manifest's rows of before, in their places: all but those that are kept."""
        with translated(_WHERE):
            self._connection.execute("BEGIN")
            self._connection.executemany("INSERT INTO previous VALUES (?, ?, ?)", (row[:3] for row in rows))
            self._connection.execute("COMMIT")

    def keep(self, request_ids: Sequence[int], last: int, standing: Standing = Standing.ANSWERED) -> None:
        """Rows of the plan that want these requests, the last of them at this position, are what they were,
        and nothing is to be sent for them: neither they nor those of before are staged."""
        self._standings[standing.value] += len(request_ids)
        self._kept += len(request_ids)
        if standing is Standing.IN_FLIGHT:
            self.awaited.extend(request_ids)
        self.last_kept = max(self.last_kept, last)

    def before(self, keys: Sequence[str]) -> dict[str, bytes | None]:
        """The fingerprints that these keys had before; a key that is new is missing."""
        found: dict[str, bytes | None] = {}
        with translated(_WHERE):
            self._connection.execute(_INDEX_PREVIOUS)
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                marks = ", ".join("?" * len(chunk))
                query = f"SELECT key, fingerprint FROM previous WHERE key IN ({marks})"  # noqa: S608
                found.update(self._connection.execute(query, chunk).fetchall())
        return found

    # ------------------------------------------------------------ asking

    def compare(self) -> Comparison:
        """The staged rows against those of before, by key. Keys are unique in each."""
        self._claims.rest()
        with translated(_WHERE):
            (before,) = self._one("SELECT count(*) FROM previous")
            if before:
                self._unpack()
            in_place, equal_in_place, unasked_in_place = self._one(_COMPARE_IN_PLACE)
            (staged,) = self._one(
                "SELECT (SELECT count(*) FROM staged) + (SELECT coalesce(sum(rows), 0) FROM block)"
            )
            moved, equal_moved, unasked_moved = 0, 0, 0
            if in_place < staged and in_place < before:
                self._connection.executescript(_MOVED)
                moved, equal_moved, unasked_moved = self._one(_COMPARE_MOVED)
                self._connection.executescript("DROP TABLE moved; DROP TABLE moved_before;")
        kept, equal = in_place + moved, equal_in_place + equal_moved
        unasked = unasked_in_place + unasked_moved
        return Comparison(
            unchanged=equal - unasked + self._kept,
            new=staged - kept + unasked,
            changed=kept - equal,
            removed=before - kept,
            unasked=unasked,
        )

    def changed_among(self, chunks: Iterable[Sequence[int]], repeats: int) -> int:
        """How many of these rows of the dataset (by position) have another request than before."""
        count = 0
        with translated(_WHERE):
            self._unpack()
            self._connection.execute(_INDEX_PREVIOUS)
            self._connection.execute("CREATE TABLE IF NOT EXISTS touched (position INTEGER PRIMARY KEY)")
            for chunk in chunks:
                self._connection.execute("BEGIN")
                self._connection.execute("DELETE FROM touched")
                self._connection.executemany(
                    "INSERT INTO touched VALUES (?)", [(position,) for position in chunk]
                )
                count += self._one(_CHANGED_AMONG_TOUCHED, repeats)[0]
                self._connection.execute("COMMIT")
        return count

    def by_repeats(self, repeats: int, before: int) -> int:
        """Rows that came or went because each row is asked another number of times."""
        came = repeats > before
        more, fewer = ("staged", "previous") if came else ("previous", "staged")
        query = _BY_REPEATS.format(more=more, fewer=fewer)
        with translated(_WHERE):
            self._unpack()
            self._connection.execute(_INDEX_PREVIOUS)
            self._connection.execute(_INDEX_STAGED)
            return int(self._one(query, max(repeats, before), min(repeats, before))[0])

    def changed(self, limit: int) -> list[ChangedRow]:
        """At most so many rows whose request is another one than before: first those that kept their
        place, then those that moved, each in the order of their positions."""
        with translated(_WHERE):
            self._unpack()
            found = self._connection.execute(_CHANGED_IN_PLACE, (limit,)).fetchall()
            if len(found) < limit:
                self._connection.execute(_INDEX_PREVIOUS)
                found += self._connection.execute(_CHANGED_AND_MOVED, (limit - len(found),)).fetchall()
        return [
            ChangedRow(key=key, position=position, position_before=before) for key, position, before in found
        ]

    def left_out(self) -> Iterator[list[bytes]]:
        """What rows asked before that ask something else now, which nobody asked and a narrowed run leaves
        out. Every row of before is staged then, and no row stands in a block."""
        self._claims.tabulate()
        with translated(_WHERE):
            self._connection.execute(_INDEX_PREVIOUS)
            found = self._connection.execute(_LEFT_OUT)
            while rows := found.fetchmany(SLICE_ROWS):
                yield [fingerprint for (fingerprint,) in rows]

    def counts(self) -> dict[str, int]:
        """Rows by standing (the words of `core.planning.Standing`)."""
        return dict(self._standings)

    def duplicates(self) -> int:
        """How many rows have a request that an earlier row has too."""
        with translated(_WHERE):
            if not self._one("SELECT EXISTS (SELECT 1 FROM staged WHERE fingerprint IS NOT NULL)")[0]:
                return self.rows_in_blocks() - self._claims.count
            self._claims.tabulate()
            return int(self._one(_DUPLICATES)[0])

    def slices(self, size: int = SLICE_ROWS) -> Iterator[list[StagedRow] | PackedBlock]:
        """All rows in the order of their positions: blocks as they were added, of the others so many at a
        time. Where rows stand among those of a block, they come with it."""
        after = -1
        for block in self.blocks():
            first, last = block.ends
            yield from self._rows_between(after, first, size)
            inside = list(chain.from_iterable(self._rows_between(first, last, size)))
            yield replace(block, inside=inside) if inside else block
            after = last
        yield from self._rows_between(after, _NO_END, size)

    def blocks(self) -> Iterator[PackedBlock]:
        """The blocks alone, in the order of their positions."""
        after = -1
        while (block := self._block_after(after)) is not None:
            yield block
            after = block.ends[1]

    def rows_in_blocks(self) -> int:
        """How many rows stand in blocks."""
        with translated(_WHERE):
            return int(self._one("SELECT coalesce(sum(rows), 0) FROM block")[0])

    def _rows_between(self, after: int, before: int, size: int) -> Iterator[list[StagedRow]]:
        """Rows that stand in no block."""
        while True:
            with translated(_WHERE):
                found = self._connection.execute(_SLICE, (after, before, size)).fetchall()
            if not found:
                return
            after = found[-1][0]
            yield [
                _row(values) if values[6] is not None else StagedRow._make(values[:10]) for values in found
            ]

    def _block_after(self, position: int) -> PackedBlock | None:
        """The next block."""
        if not self._blocks:
            return None
        with translated(_WHERE):
            found = self._connection.execute(_BLOCK, (position,)).fetchone()
        if found is None:
            return None
        positions, keys, fingerprints, names, places = found
        return PackedBlock(
            positions=positions,
            keys=keys,
            fingerprints=fingerprints,
            names=names,
            places=[(slot, line, number) for slot, line, number in decode_json(places)],
        )

    def _unpack(self) -> None:
        """Every block becomes rows, so that SQL can ask about them."""
        after = -1
        while (block := self._block_after(after)) is not None:
            first, after = block.ends
            self._connection.execute("BEGIN")
            self._connection.executemany(_ADD, ((*row[:6], None, *row[7:]) for row in block))
            self._connection.execute("DELETE FROM block WHERE first = ?", (first,))
            self._connection.execute("COMMIT")
        self._blocks = 0

    def __iter__(self) -> Iterator[StagedRow]:
        for rows in self.slices():
            yield from rows

    def _one(self, query: str, *values: int) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self._connection.execute(query, values).fetchone()
        return found


def _flat(row: StagedRow) -> tuple[Any, ...]:
    position, key, fingerprint, standing, slot, line, cause, *rest = row
    if cause is None:
        raise ValueError("a row without a cause has nothing to flatten")
    return (
        position, key, fingerprint, standing, slot, line,
        cause.error_class, *rest, cause.code, cause.message,
    )  # fmt: skip


def _row(values: tuple[Any, ...]) -> StagedRow:
    cause = Cause(error_class=values[6], code=values[10], message=values[11])
    return StagedRow._make((*values[:6], cause, *values[7:10]))
