"""Shards of other manifests that this one's rows wait for: may this run buy a batch of one?

Who made such a shard passed a gate with a budget of its own, and may never run again. A run that sends it
pays for all of its requests. So it is sent only where it fits into this run's `budget.max_cost` beside all
else, and told. One that does not is left to its manifest: the rows that wait for it stay pending, and the run
ends without them, because it can't know whether anybody is going to send it.
"""

from __future__ import annotations

from runner.commands.execution import Execution
from runner.commands.moments import Trouble
from runner.commands.options import ManifestOptions, command_line
from runner.commands.spending import Allowance
from runner.core.states import ShardState, Submission


class OthersShards:
    """Asked of each shard before something of it is bought."""

    def __init__(self, execution: Execution, run_id: int) -> None:
        self._execution = execution
        self._ledger = execution.ledger
        self._run_id = run_id
        self._own: set[int] = set()

    def may_send(self, submission: Submission) -> bool:
        """Whether the run may buy a batch of this shard, which it holds the lock of."""
        if self._is_own(submission.shard_id) or self._was_bought(submission.shard_id):
            return True
        execution = self._execution
        allowance = Allowance(
            execution.workplace, self._ledger, run_id=self._run_id, manifest_id=execution.manifest_id
        )
        owner = self._ledger.owner_of_shard(submission.shard_id)
        path = execution.workplace.as_typed(owner, execution.options.manifest)
        what = f"rows wait for {submission.requests:,} requests of {path}, which"
        if not self._fits(submission, allowance):
            sends = command_line("", ManifestOptions(path=path))
            what = f"{what} are not sent by this run: {allowance.text}; `{sends}` sends them"
            execution.reporter.tell(Trouble(what=what))
            return False
        if submission.state is ShardState.UPLOADED:
            what = f"{what} this run sends; it pays for all of them"
            execution.reporter.tell(Trouble(what=what, slot=submission.slot))
        return True

    def _is_own(self, shard_id: int) -> bool:
        if shard_id not in self._own:  # it may have been made since
            self._own = {one.shard_id for one in self._ledger.shards(self._execution.manifest_id)}
        return shard_id in self._own

    def _was_bought(self, shard_id: int) -> bool:
        """Whether this run sent a create of it before: then it counts already."""
        records = self._ledger.bought_elsewhere(self._run_id, self._execution.manifest_id)
        return any(record.shard_id == shard_id for record in records)

    def _fits(self, submission: Submission, allowance: Allowance) -> bool:
        try:
            with (self._execution.folder / submission.path).open("rb") as file:
                return allowance.takes_every(file)
        except FileNotFoundError:
            return True  # whoever sends it finds out
