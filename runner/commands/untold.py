"""Held shards of which it is not known what they hold: a run asks for them before all else.

A rebuild leaves such a shard where its list of requests and its input file are both gone. Its answers can be
joined to nothing, so it is no shard to be collected, nor ever done, before its requests are known.
"""

from __future__ import annotations

from runner.commands.options import ManifestOptions, command_line
from runner.core.states import ShardState, Submission
from runner.errors import DecisionNeededError
from runner.ledger import Ledger, ShardRecord


def is_untold(ledger: Ledger, shard: ShardRecord | Submission) -> bool:
    """Whether the ledger does not know which requests this shard holds."""
    return len(ledger.expected(shard.shard_id)) < shard.requests


def refuse_untold(ledger: Ledger, manifest_id: int, options: ManifestOptions) -> None:
    """Raises DecisionNeededError where it is not known which requests a held shard holds (after a rebuild
    that lacked its file): whatever were sent now could be in it."""
    for record in ledger.shards(manifest_id):
        if record.state is ShardState.HELD and is_untold(ledger, record):
            raise DecisionNeededError(
                f"shard {record.slot} holds {record.requests} requests, and which ones is not known since "
                f"the ledger was rebuilt (batch {record.batch_id or 'unknown'}): they could be paid twice",
                next_step=f"`{command_line('resolve', options)}` shows what can be decided",
            )
