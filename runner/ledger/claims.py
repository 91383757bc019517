"""Which rows want a request first: every fingerprint is claimed once, for good.

Theory
------
Nearly always all fingerprints of a dataset differ, and to see that, they need not be looked up: a filter of
a fixed size says of each that it was surely not claimed before, or that it may have been (a Bloom filter in
blocks of one word: a fingerprint is a hash, so its own bits say which word, and which 8 bits of it). What is
claimed is written down by calls, unsorted: a fifth of the time of an index of random values (measured).

At the first one that may have been claimed, and that is mostly a real one, all that was claimed goes into a
table with an index, sorted, and from there on every call asks the table.
"""

from __future__ import annotations

import mmap
import sqlite3
from array import array
from collections.abc import Sequence

CLAIM_TABLES = """
CREATE TABLE claimed (fingerprint BLOB PRIMARY KEY, call INTEGER) WITHOUT ROWID;
CREATE TABLE claimed_by_call (marks BLOB NOT NULL);
"""
_WORDS = 1 << 22
"""32 MB, of which only what is touched is taken. In one of ten plans of a million different fingerprints, one
of them is not sure."""
_TWO_BITS = [1 << (number & 63) | 1 << (number >> 6) for number in range(1 << 12)]
_CHUNK = 500
# One call for all of them: it takes half the time of a call for each (measured).
_MARKS = """
WITH RECURSIVE mark(start) AS (
    SELECT 1 WHERE ?2 > 0 UNION ALL SELECT start + 16 FROM mark WHERE start + 16 <= ?2
)
"""
_CLAIM = f"{_MARKS} INSERT OR IGNORE INTO claimed SELECT substr(?1, start, 16), ?3 FROM mark"  # noqa: S608
_LIST = f"{_MARKS} INSERT INTO listed SELECT substr(?1, start, 16) FROM mark"  # noqa: S608
_WON = f"SELECT fingerprint FROM claimed WHERE fingerprint IN ({', '.join('?' * _CHUNK)}) AND call = ?"  # noqa: S608


class Claims:
    """Over a scratch database with CLAIM_TABLES. `count`: so many fingerprints are claimed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # Of a mapping, only what is touched is taken; `bytearray` would touch all of it.
        self._filter: memoryview | None = memoryview(mmap.mmap(-1, _WORDS * 8)).cast("Q")
        self._is_tabulated = False
        self._calls = 0
        self.count = 0

    def claim(self, fingerprints: Sequence[bytes]) -> list[bool]:
        """For each fingerprint whether this is the first time it is claimed.

        Right for duplicates inside one call too: the first of them is True.
        """
        if self._filter is not None:
            marks = b"".join(fingerprints)
            if _are_new(marks, self._filter):
                self._connection.execute("INSERT INTO claimed_by_call VALUES (?)", (marks,))
                self.count += len(fingerprints)
                return [True] * len(fingerprints)
        self.tabulate()
        return self._ask(fingerprints)

    def rest(self) -> None:
        """Nothing more will be claimed, as it seems: let go of the filter's memory."""
        self._filter = None

    def tabulate(self) -> None:
        """All that is claimed into the table `claimed`, if it is not there yet; and all that comes."""
        if self._is_tabulated:
            return
        self._filter, self._is_tabulated = None, True
        run = self._connection.execute
        run("BEGIN")
        run("CREATE TABLE listed (fingerprint BLOB)")
        for (marks,) in run("SELECT marks FROM claimed_by_call"):
            run(_LIST, (marks, len(marks)))
        run("INSERT INTO claimed SELECT fingerprint, 0 FROM listed ORDER BY fingerprint")
        run("DROP TABLE listed")
        run("COMMIT")

    def _ask(self, fingerprints: Sequence[bytes]) -> list[bool]:
        distinct = sorted(set(fingerprints))
        self._calls += 1
        before = self._connection.total_changes
        marks = b"".join(distinct)
        self._connection.execute(_CLAIM, (marks, len(marks), self._calls))
        claimed = self._connection.total_changes - before
        self.count += claimed
        # Nearly always all are new, and then there is nothing to look up.
        if claimed == len(fingerprints):
            return [True] * claimed
        won = set(distinct) if claimed == len(distinct) else self._won(distinct)
        return [_take(fingerprint, won) for fingerprint in fingerprints]

    def _won(self, fingerprints: Sequence[bytes]) -> set[bytes]:
        """Those that this call claimed."""
        won: set[bytes] = set()
        for start in range(0, len(fingerprints), _CHUNK):
            chunk = list(fingerprints[start : start + _CHUNK])
            chunk += chunk[-1:] * (_CHUNK - len(chunk))
            won.update(found for (found,) in self._connection.execute(_WON, (*chunk, self._calls)))
        return won


def _take(fingerprint: bytes, won: set[bytes]) -> bool:
    """True once."""
    if fingerprint in won:
        won.remove(fingerprint)
        return True
    return False


def _are_new(marks: bytes, words: memoryview) -> bool:
    """Whether each of these fingerprints is surely another than all before. Noted are all, or those up to one
    that may not be. Written for a million of them: no calls."""
    two = _TWO_BITS
    most = len(words) - 1
    halves = array("Q", marks)
    for one, other in zip(halves[::2], halves[1::2], strict=True):
        bits = two[other & 4095] | two[other >> 12 & 4095] | two[other >> 24 & 4095] | two[other >> 36 & 4095]
        place = one & most
        word = words[place]
        if word & bits == bits:
            return False
        words[place] = word | bits
    return True
