"""Shards on their way that a run of this manifest can move: those at the server it names now.

A manifest may name another server while its batches are under way. Their ids mean nothing there, and no
row wants them any more (the server is part of every fingerprint), so they are left to finish where they
are. Once the manifest, or another one that wants the same requests, names their server again, they are
collected like any other. So a run that was made for another server is not gone on with: what it still had to
send was rendered for that one, and would be neither its answer nor the manifest's.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.commands.documents import provider_of
from runner.commands.workplace import Workplace
from runner.core.states import Submission
from runner.ledger import Ledger, RunRecord
from runner.provider import resolve

_CUT_OFF = frozenset({"running", "interrupted", "detached"})
"""`running` is what a run that was killed says: the manifest's lock is ours."""


def under_way(workplace: Workplace, ledger: Ledger, manifest_id: int) -> list[Submission]:
    """Open shards of the manifest, or that its rows wait for, at its own server."""
    return at_own_server(workplace, ledger.open_submissions(manifest_id))


def at_own_server(workplace: Workplace, submissions: Sequence[Submission]) -> list[Submission]:
    """Those of the shards that were made for the manifest's server."""
    here = workplace.provider.server
    return [submission for submission in submissions if submission.server == here]


def is_elsewhere(workplace: Workplace, run: RunRecord | None) -> bool:
    """Whether a run was made for another server than the manifest names now: no request of the one is a
    request of the other."""
    if run is None or run.document is None:
        return False
    return resolve(provider_of(run)).identity != workplace.provider.identity


def was_cut_off(ledger: Ledger, manifest_id: int) -> RunRecord | None:
    """The last run, where it was cut off or left alone. One that failed is none of these: what made it fail
    might do so each time."""
    newest = next(iter(ledger.runs(manifest_id, 1)), None)
    run = ledger.current_run(manifest_id)
    if run is None or newest is None or newest.id != run.id or run.state not in _CUT_OFF:
        return None
    return run
