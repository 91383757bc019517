"""Shards on their way that a run of this manifest can move: those at the server it names now.

A manifest may name another server while its batches are under way. Their ids mean nothing there, and no
row wants them any more (the server is part of every fingerprint), so they are left to finish where they
are. Once the manifest, or another one that wants the same requests, names their server again, they are
collected like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.commands.workplace import Workplace
from runner.core.states import Submission
from runner.ledger import Ledger


def under_way(workplace: Workplace, ledger: Ledger, manifest_id: int) -> list[Submission]:
    """Open shards of the manifest, or that its rows wait for, at its own server."""
    return at_own_server(workplace, ledger.open_submissions(manifest_id))


def at_own_server(workplace: Workplace, submissions: Sequence[Submission]) -> list[Submission]:
    """Those of the shards that were made for the manifest's server."""
    here = workplace.provider.server
    return [submission for submission in submissions if submission.server == here]
