"""Shards that were never bought, taken back: perhaps nobody wants them any more after an edit.

Under each shard's own lock, because another manifest's process may be sending it for rows of its own.
"""

from __future__ import annotations

import os

from runner.commands.workplace import Workplace
from runner.core.states import ShardState, discarded
from runner.failpoints import failpoint
from runner.ledger import HeldElsewhereError, Ledger, hold

_NEED_THEIR_FILE = (ShardState.READY, ShardState.UPLOADING)


def take_back_unsent(workplace: Workplace, ledger: Ledger, manifest_id: int) -> int:
    """Discard every unpaid shard of the manifest and remove its file; gives how many.

    With them those of other manifests that its rows wait for and that nobody is going to send: their file is
    gone, or the manifest itself.
    """
    unpaid = to_be_taken_back(workplace, ledger, manifest_id)
    return sum(_discard(workplace, ledger, shard_id) for shard_id in unpaid)


def to_be_taken_back(workplace: Workplace, ledger: Ledger, manifest_id: int) -> list[int]:
    """The shards that a run takes back before it plans."""
    own = {record.shard_id: record.state for record in ledger.shards(manifest_id)}
    unpaid = [shard_id for shard_id, state in own.items() if state.is_unpaid]
    others = [
        one for one in ledger.open_submissions(manifest_id) if one.shard_id not in own and one.state.is_unpaid
    ]
    gone = _of_gone_manifests(workplace, ledger) if others else frozenset()
    lost = [
        one.shard_id
        for one in others
        if one.shard_id in gone
        or (one.state in _NEED_THEIR_FILE and not (workplace.place.folder / one.path).exists())
    ]
    return unpaid + lost


def _of_gone_manifests(workplace: Workplace, ledger: Ledger) -> frozenset[int]:
    """The shards of manifests that are no longer where they were."""
    project = workplace.place.project
    gone = [one for one in ledger.manifests() if not os.path.lexists(project / one.path)]
    return frozenset(record.shard_id for one in gone for record in ledger.shards(one.id))


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
