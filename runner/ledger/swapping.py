"""A rebuilt ledger takes the place of the damaged one, which is kept.

The rule: at no moment is there a ledger that knows too little. Between the two renames there is none at
all, and a missing ledger beside a journal is refused by everybody (see `sentinel`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from runner.errors import LedgerError
from runner.ledger.engine import database_file
from runner.ledger.journal import sync_folder
from runner.ledger.place import LedgerPlace
from runner.ledger.seal import seal_path

_PARTS = ("", "-wal", "-shm", "-seal")


def is_file_of_ours(place: LedgerPlace) -> bool:
    """Whether the ledger is a SQLite file, which can be set aside."""
    return database_file(place.url) is not None


def scratch_folder(place: LedgerPlace) -> Path:
    """Where a new ledger is made: on the disk of the old one, so that a rename takes it to its place."""
    usual = place.folder / "scratch"
    target = Path(database_file(place.url) or "").parent
    return usual if not target.exists() or target.stat().st_dev == usual.stat().st_dev else target


def swap_in(place: LedgerPlace, rebuilt: Path) -> Path | None:
    """Set the old ledger aside under a name with the time, and put the rebuilt file in its place. Gives
    where the old one is now, None if there was none. Errors: LedgerError."""
    target = Path(database_file(place.url) or "")
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    aside = target.with_name(f"{target.name}.before-rebuild-{stamp}")
    try:
        was_there = target.exists()
        for part in _PARTS:
            old = target.with_name(target.name + part)
            if old.exists():
                old.replace(aside.with_name(aside.name + part))
        rebuilt.replace(target)
        if seal_path(rebuilt).exists():
            seal_path(rebuilt).replace(seal_path(target))
        sync_folder(target.parent)
    except OSError as error:
        raise LedgerError(
            f"{target}: can't be replaced: {error.strerror}",
            next_step="fix the permissions of its folder, then run the same command again",
        ) from error
    return aside if was_there else None
