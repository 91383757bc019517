"""Whether a file that stands where a table shall go may be replaced: only one that this program wrote.

Theory. A manifest from elsewhere, or a slip in one, may name any file of the user as its output. A record of
what was written would know our own files exactly, but a ledger can be lost while the tables stay, and then
nothing could be published any more. So the file itself is asked: every table of ours has the lineage columns
(SQLite: our application id). An empty file is nobody's.
"""

from __future__ import annotations

from pathlib import Path

from runner.results.sqlite_table import foreign_database

_OWN_COLUMNS = (b"_key", b"_status", b"_custom_id")
_FIRST_RECORD_BYTES = 64 << 20
_HEADER_BYTES = 1 << 20
_MAGIC = b"PAR1"


def foreign_file(target: Path, suffix: str) -> str | None:
    """Why this target must not be replaced, or None where it may be. Raises OSError, ValueError."""
    if suffix == ".db":
        return foreign_database(target)
    if not target.is_file() or target.stat().st_size == 0:
        return None
    head = _parquet_footer(target) if suffix == ".parquet" else _first_record(target, suffix)
    if all(column in head for column in _OWN_COLUMNS):
        return None
    return "the file is not a table of this program and would be lost"


def _first_record(target: Path, suffix: str) -> bytes:
    with target.open("rb") as file:
        return file.readline(_FIRST_RECORD_BYTES) if suffix == ".jsonl" else file.read(_HEADER_BYTES)


def _parquet_footer(target: Path) -> bytes:
    """The bytes that name the columns; empty for what is no Parquet file."""
    size_bytes = target.stat().st_size
    if size_bytes < 12:
        return b""
    with target.open("rb") as file:
        file.seek(size_bytes - 8)
        end = file.read(8)
        length = int.from_bytes(end[:4], "little")
        if end[4:] != _MAGIC or not 0 < length <= min(size_bytes - 12, _FIRST_RECORD_BYTES):
            return b""
        file.seek(size_bytes - 8 - length)
        return file.read(length)
