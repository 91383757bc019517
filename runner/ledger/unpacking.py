"""Blocks of a plan, unpacked by SQLite: one statement for each table and block, no row passes through Python.

The rule: what these statements write is, column for column, what `new_blocks` writes with any database (a
property test compares them); what they can't unpack exactly is left to it. A block is what staging holds:
fingerprints one after another, names as a JSON list, runs of lines.

`json_each` ends a text at a NUL, so such blocks are not plain; and it decodes the list anew for every run of
lines, so a block has few of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from runner.ledger.records import PackedBlock

_MOST_RUNS = 4
_NUL = rb"\u0000"

# Values: the id of the block's first request, fingerprints, shard, the line that the block's first would have
# there, names, and the places in the block from which on and up to which.
ADD_REQUESTS = """
INSERT INTO request (id, fingerprint, name, retryable, attempts, excused, open_shard_id, open_line)
SELECT ?1 + one.key, substr(?2, one.key * 16 + 1, 16), one.value, 0, 1, 0, ?3, ?4 + one.key
FROM json_each(?5) AS one WHERE one.key >= ?6 AND one.key < ?7
"""
ADD_ATTEMPTS = """
INSERT INTO attempt (shard_id, line, request_id, number)
SELECT open_shard_id, open_line, id, 1 FROM request WHERE id >= ?1 AND id < ?2 ORDER BY id
"""
ADD_ROWS = """
INSERT INTO row (manifest_id, position, request_id)
SELECT ?1, ?2 + id, id FROM request WHERE id >= ?3 AND id < ?4 ORDER BY id
"""
ADD_NAMED_ROWS = """
INSERT INTO row (manifest_id, position, key, request_id)
SELECT ?1, ?2 + request.id, nullif(one.value, request.name), request.id
FROM json_each(?4) AS one JOIN request ON request.id = ?3 + one.key
"""


def is_able(connection: Connection) -> bool:
    """Whether this database unpacks blocks. A few SQLites are built without JSON."""
    if connection.dialect.name != "sqlite":
        return False
    try:
        return connection.exec_driver_sql("SELECT value FROM json_each('[1]')").scalar() == 1
    except DatabaseError:
        return False


def is_plain(block: PackedBlock) -> bool:
    """Whether its requests can be unpacked here."""
    return len(block.places) <= _MOST_RUNS and _NUL not in (block.names or block.keys)


def has_plain_rows(block: PackedBlock) -> bool:
    """Whether its rows can: one after another, without a gap."""
    first, last = block.ends
    return last - first + 1 == len(block) and (block.names is None or _NUL not in block.keys)


def add_requests(
    connection: Connection, block: PackedBlock, first_id: int, shard_ids: Mapping[int, int]
) -> None:
    """New requests with ids from `first_id` on, each with its first attempt."""
    names = (block.names or block.keys).decode()
    start = 0
    for slot, line, number in block.places:
        stop = start + number
        values = (first_id, block.fingerprints, shard_ids[slot], line - start, names, start, stop)
        connection.exec_driver_sql(ADD_REQUESTS, values)
        start = stop
    connection.exec_driver_sql(ADD_ATTEMPTS, (first_id, first_id + len(block)))


def add_rows(connection: Connection, manifest_id: int, block: PackedBlock, first_id: int) -> None:
    """A row for each of these requests, where no row stands."""
    first, _ = block.ends
    if block.names is None:
        values = (manifest_id, first - first_id, first_id, first_id + len(block))
        connection.exec_driver_sql(ADD_ROWS, values)
    else:
        keys = block.keys.decode()
        connection.exec_driver_sql(ADD_NAMED_ROWS, (manifest_id, first - first_id, first_id, keys))
