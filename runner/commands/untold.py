"""Held shards of which it is not known what they hold: a run asks for them before all else."""

from __future__ import annotations

from runner.commands.options import ManifestOptions, command_line
from runner.core.states import ShardState
from runner.errors import DecisionNeededError
from runner.ledger import Ledger


def refuse_untold(ledger: Ledger, manifest_id: int, options: ManifestOptions) -> None:
    """Raises DecisionNeededError where it is not known which requests a held shard holds (after a rebuild
    that lacked its file): whatever were sent now could be in it."""
    for record in ledger.shards(manifest_id):
        if record.state is ShardState.HELD and len(ledger.expected(record.shard_id)) < record.requests:
            raise DecisionNeededError(
                f"shard {record.slot} holds {record.requests} requests, and which ones is not known since "
                f"the ledger was rebuilt (batch {record.batch_id or 'unknown'}): they could be paid twice",
                next_step=f"`{command_line('resolve', options)}` shows what can be decided",
            )
