"""Which requests a shard held, kept as a small file once the shard's input file may go.

An answer on disk is a line with a custom_id, and that holds half a fingerprint only. So before a shard is
done, or given up with answers, the whole fingerprint and the name of each of its requests go to
`requests/<sha>.txt`, in the order of the lines, with a checksum of it all. With it, the journal and the raw
files, a lost ledger can be made again for every answer that was ever paid for, whatever the manifest says by
then. Written once, synced, named last.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from runner.core.model import Fingerprint
from runner.errors import LedgerError
from runner.ledger.journal import sync_folder

FOLDER = "requests"


class KeptRequest(NamedTuple):
    """One line of a shard: its fingerprint, and the readable half of its custom_id."""

    fingerprint: Fingerprint
    name: str


def kept_path(folder: Path, sha: str) -> Path:
    """Where the requests of the shard with this content are kept, below the `.runner` folder."""
    return folder / FOLDER / f"{sha}.txt"


def keep_requests(folder: Path, sha: str, requests: Iterable[tuple[bytes, str]]) -> None:
    """Write them (fingerprint and name of each), unless they are there. Errors: LedgerError."""
    path = kept_path(folder, sha)
    if path.exists():
        return
    part = path.with_suffix(f".part-{os.getpid()}")
    data = "".join([f"{fingerprint.hex()} {name}\n" for fingerprint, name in requests]).encode("ascii")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data + _sum_of(data))
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise LedgerError(
            f"{path}: can't be written: {error.strerror}",
            next_step="free some disk space or fix the permissions, then run the same command again",
        ) from error


def load_requests(folder: Path, sha: str, count: int) -> list[KeptRequest] | None:
    """The requests of a shard of so many; None where they were not kept, or the file is not whole."""
    try:
        data = kept_path(folder, sha).read_bytes()
    except OSError:
        return None
    lines, check = data[:-_SUM_BYTES], data[-_SUM_BYTES:]
    if check != _sum_of(lines):
        return None
    known = [_read(line) for line in lines.split(b"\n") if line]
    return [one for one in known if one is not None] if len(known) == count else None


def _sum_of(lines: bytes) -> bytes:
    """The last line."""
    return b"sum " + hashlib.sha256(lines).hexdigest()[:16].encode() + b"\n"


_SUM_BYTES = len(_sum_of(b""))


def _read(line: bytes) -> KeptRequest | None:
    digits, _, name = line.partition(b" ")
    try:
        return KeptRequest(Fingerprint(bytes.fromhex(digits.decode("ascii"))), name.decode("ascii"))
    except ValueError:
        return None
