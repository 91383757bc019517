"""The seal: checksums of the closed database, so that a bit that flips on the disk is found at open.

SQLite checks the shape of its pages and not what stands in them: a flipped bit in a status or an offset is
a valid database that says something else. So whoever closes the ledger writes down a checksum for each
block of the file, and whoever opens it compares. The seal is no lock and no authority: it counts only
while no write-ahead log lies beside the file, and people may change the file with tools of their own. The
two are told apart by what differs: SQLite rewrites a block in many places, damage is a byte or a bit. CRC-32
is linear, so the difference of two checksums says whether one byte alone explains it.

Rejected: a digest of the whole file (it can't tell damage from an edit), SQLite's own change counter (it
stands still in WAL mode), refusing every change that was not ours (people mend their ledgers by hand).
"""

from __future__ import annotations

import os
from array import array
from contextlib import suppress
from enum import Enum
from pathlib import Path
from zlib import crc32

from runner.ledger.engine import database_file
from runner.ledger.handles import is_open_here
from runner.ledger.place import LedgerPlace

BLOCK_BYTES = 4096
_READ_BYTES = 256 * BLOCK_BYTES
MAX_BYTES = 512_000_000
"""A larger ledger has no seal: reading it at every start would be felt."""
_MARK = b"RUNSEAL1"


class Verdict(Enum):
    """What the seal says of the file."""

    WHOLE = "as this program left it"
    NOTHING = "not sealed, or changed by others"
    DAMAGED = "single bytes differ from what was written"


def seal_path(path: Path) -> Path:
    """Where a database's seal is."""
    return path.with_name(path.name + "-seal")


def has_log(path: Path) -> bool:
    """Whether somebody works on the database, or died over it."""
    try:
        return path.with_name(path.name + "-wal").stat().st_size > 0
    except FileNotFoundError:
        return False  # also where the last one to close it removes it at this moment


def seal_closed(place: LedgerPlace) -> None:
    """Seal a ledger that was just closed, if it is a file. While this process has it open elsewhere it has no
    seal: the last one to close it writes one."""
    path = database_file(place.url)
    if is_open_here(path):
        with suppress(OSError):
            seal_path(Path(path or "")).unlink(missing_ok=True)
    elif path:
        write_seal(Path(path))


def write_seal(path: Path) -> None:
    """Seal a database that was just closed. Never raises: without a seal the check at open is another."""
    target = seal_path(path)
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    with suppress(OSError):
        if has_log(path) or path.stat().st_size > MAX_BYTES:
            target.unlink(missing_ok=True)
            return
        sums = _sums(path).tobytes()
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(_MARK + crc32(sums).to_bytes(4, "little") + sums)
        part.replace(target)


def examine(path: Path) -> Verdict:
    """Compare a database with its seal. Nothing is written."""
    known = _read_seal(path)
    if known is None or has_log(path) or path.stat().st_size > MAX_BYTES:
        return Verdict.NOTHING
    found = _sums(path)
    if len(found) != len(known):
        return Verdict.NOTHING
    differences = {then ^ now for then, now in zip(known, found, strict=True) if then != now}
    if not differences:
        return Verdict.WHOLE
    return Verdict.DAMAGED if _one_byte_each(differences) else Verdict.NOTHING


def _read_seal(path: Path) -> array[int] | None:
    try:
        data = seal_path(path).read_bytes()
    except OSError:
        return None
    mark, check, sums = data[:8], data[8:12], data[12:]
    if mark != _MARK or crc32(sums).to_bytes(4, "little") != check or len(sums) % 4:
        return None
    return array("I", sums)


def _sums(path: Path) -> array[int]:
    """Many blocks are read at a time: asked for one by one they take half as long again (measured)."""
    sums = array("I")
    with path.open("rb", buffering=0) as stream:
        while data := stream.read(_READ_BYTES):
            data += bytes(-len(data) % BLOCK_BYTES)
            sums.extend([crc32(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)])
    return sums


def _one_byte_each(differences: set[int]) -> bool:
    """Whether each difference of checksums is that of a block in which one byte was changed."""
    return all(_is_one_byte(difference) for difference in differences)


_TABLE = tuple(crc32(bytes([byte]), 0xFFFFFFFF) ^ 0xFFFFFFFF for byte in range(256))
"""CRC-32's own table: what a changed byte at the very end of a block does to the checksum."""
_BYTE_OF_TOP = {entry >> 24: byte for byte, entry in enumerate(_TABLE)}
_LAST_BYTE_CHANGED = frozenset(_TABLE[1:])


def _is_one_byte(difference: int) -> bool:
    """Take the block's bytes off from its end: unchanged ones only carry a difference on, so at the changed
    one it is the table's."""
    for _ in range(BLOCK_BYTES):
        if difference in _LAST_BYTE_CHANGED:
            return True
        byte = _BYTE_OF_TOP[difference >> 24]
        difference = ((difference ^ _TABLE[byte]) << 8) & 0xFFFFFFFF | byte
    return False
