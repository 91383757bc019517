"""Held shards of which it is not known what they hold: a run asks for them before all else.

A rebuild leaves such a shard where its list of requests and its input file are both gone. Its answers can be
joined to nothing, so it is no shard to be collected, nor ever done, before its requests are known.
"""

from __future__ import annotations

from runner.commands.complaints import deciding
from runner.commands.execution import Execution
from runner.commands.options import command_line
from runner.core.states import ShardState, Submission, held
from runner.errors import DecisionNeededError
from runner.ledger import Ledger, ShardRecord

UNTOLD = "which requests it holds is not known: its input file and its list of requests are gone"


def is_untold(ledger: Ledger, shard: ShardRecord | Submission) -> bool:
    """Whether the ledger does not know which requests this shard holds."""
    return len(ledger.expected(shard.shard_id)) < shard.requests


def refuse_untold(execution: Execution) -> None:
    """Raises DecisionNeededError where it is not known which requests a shard at this server holds (after a
    rebuild that lacked its file), whichever manifest made it: whatever were sent now could be in it."""
    here, ledger = execution.workplace, execution.ledger
    for owner, shard_id in ledger.untold(here.provider.server):
        shard = ledger.submission(shard_id)
        if shard.state is not ShardState.HELD:  # adopted by a version that did not ask what it holds
            ledger.save(held(shard, UNTOLD), what="held")
        of_whom, command = "", command_line("resolve", execution.options.manifest)
        if owner != here.manifest_path:
            path = here.as_typed(owner, execution.options.manifest)
            of_whom, command = f" of {path}", deciding(path, execution.options.manifest)
        raise DecisionNeededError(
            f"shard {shard.slot}{of_whom} holds {shard.requests} requests, and which ones is not known since "
            f"the ledger was rebuilt (batch {shard.batch_id or 'unknown'}): they could be paid twice",
            next_step=f"`{command}` shows what can be decided",
        )
