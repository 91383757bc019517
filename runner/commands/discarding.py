"""Shards that were never bought, taken back: perhaps nobody wants them any more after an edit.

Under each shard's own lock, because another manifest's process may be sending it for rows of its own.
"""

from __future__ import annotations

from runner.commands.workplace import Workplace
from runner.core.states import ShardState, discarded
from runner.failpoints import failpoint
from runner.ledger import HeldElsewhereError, Ledger, hold

_NEED_THEIR_FILE = (ShardState.READY, ShardState.UPLOADING)


def take_back_unsent(workplace: Workplace, ledger: Ledger, manifest_id: int) -> int:
    """Discard every unpaid shard of the manifest and remove its file; gives how many.

    With them those of other manifests that its rows wait for and that nobody can send: their file is gone.
    """
    unpaid = [record.shard_id for record in ledger.shards(manifest_id) if record.state.is_unpaid]
    lost = [
        one.shard_id
        for one in ledger.open_submissions(manifest_id)
        if one.state in _NEED_THEIR_FILE and not (workplace.place.folder / one.path).exists()
    ]
    return sum(_discard(workplace, ledger, shard_id) for shard_id in dict.fromkeys((*unpaid, *lost)))


def _discard(workplace: Workplace, ledger: Ledger, shard_id: int) -> bool:
    try:
        with hold(workplace.place.shard_lock(shard_id)):
            submission = ledger.submission(shard_id)
            if not submission.state.is_unpaid:
                return False
            failpoint("discard.begins")
            ledger.release(discarded(submission), what="discarded")
            failpoint("discard.committed")
    except HeldElsewhereError:
        return False
    if not ledger.needs_file(submission.path):
        (workplace.place.folder / submission.path).unlink(missing_ok=True)
        failpoint("discard.file_removed")
    return True
