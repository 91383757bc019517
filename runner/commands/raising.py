"""Answers that were cut at the token limit, asked again with a larger limit in the same run.

The rows of the run are rendered once more, from its own snapshot and template texts, and compared with the
ledger as any plan is; where the ladder of limits (`core.raising`) leads on, the larger request is placed in
a new shard and the row belongs to it from now on. Nothing but that is sent. Where the larger request failed
for good, the row goes back to the answer that was cut. The next `run` would come to the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from runner.commands.checking import render_source
from runner.commands.comparing import Comparison
from runner.commands.moments import Raising, Reporter, Trouble
from runner.commands.narrowing import selection_of
from runner.commands.options import Narrowing
from runner.commands.render_pool import render_all
from runner.commands.retrying import files_of_more, next_slot, planned, until_it_stands
from runner.commands.sharding import SealedShard, ShardFiles
from runner.commands.spending import Allowance
from runner.commands.workplace import Workplace
from runner.core.model import Status
from runner.core.planning import Policy, shown_cost
from runner.failpoints import failpoint
from runner.ledger import Ledger, Staging
from runner.prompt import Prompt

_NOTHING = Narrowing(limit=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a run's rows were asked with, frozen: the snapshot's path, its number of rows, template texts."""

    snapshot: str
    rows: int
    prompt: Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class LargerRequests:
    """What a run asks again with a larger limit. `began_after`: the last event before somebody asked for this
    run; where it was cancelled since, nothing is asked, and what was cut stays so. `shard_ids`: of a run that
    was narrowed, the shards that it asked its rows in; only what was cut there is asked again. `check_stop`
    raises where a person interrupted."""

    workplace: Workplace
    ledger: Ledger
    asked: Asked
    run_id: int
    manifest_id: int
    shard_ids: frozenset[int] | None
    began_after: int
    workers: int | None
    reporter: Reporter
    check_stop: Callable[[], None]

    def place(self) -> bool:
        """Place larger requests for what was cut; they are under way then. Nothing where nothing was cut.

        Gives whether that is all: False where an answer that was cut may be left as it is. Where another run
        has sent one of them meanwhile, it is looked again, and waits for that one.
        """
        if len(self.workplace.ladder) == 1 or not _may_lead_on(self.ledger, self.manifest_id):
            return True
        otherwise = "not asked with a larger limit now"
        return until_it_stands(self._place_once, reporter=self.reporter, otherwise=otherwise) or False

    def _place_once(self) -> bool:
        """One look, and what it finds in new shards. Errors: PlanMovedError, and then nothing stays of it."""
        failpoint("raise.begins")
        folder = self.workplace.place.folder
        with tempfile.TemporaryDirectory(prefix="raise-", dir=folder / "scratch") as scratch:
            first_slot = next_slot(self.ledger, self.manifest_id, self.run_id)
            files = files_of_more(self.workplace, Path(scratch), first_slot)
            with Staging.create(Path(scratch)) as staging:
                try:
                    shards, is_all = self._committed(files, staging)
                except BaseException:
                    files.discard()
                    raise
            if not shards:
                files.discard()
        failpoint("raise.committed")
        if shards:
            requests = sum(shard.requests for shard in shards)
            self.reporter.tell(Raising(requests=requests, shards=len(shards)))
        return is_all

    def _committed(self, files: ShardFiles, staging: Staging) -> tuple[tuple[SealedShard, ...], bool]:
        """The new shards, which the ledger holds then (none where they would cost too much), and whether they
        are all. The commit is the last thing: from then on the files are not ours to remove."""
        is_cancelled = self.ledger.wishes().is_cancelled(self.manifest_id, self.began_after)
        comparison = self._compared(files, staging, _NOTHING if is_cancelled else Narrowing())
        shards = tuple(comparison.seal(self.asked.rows))
        if shards and not self._is_affordable(comparison, shards):
            return (), False
        failpoint("raise.sealed")
        self.ledger.commit_plan(
            run_id=self.run_id,
            manifest_id=self.manifest_id,
            staging=staging,
            shards=planned(shards, self.workplace),
        )
        return shards, not is_cancelled and self.shard_ids is None

    def _compared(self, files: ShardFiles, staging: Staging, narrowing: Narrowing) -> Comparison:
        """The run's rows, rendered once more and compared with the ledger."""
        workplace, asked = self.workplace, self.asked
        comparison = Comparison(
            workplace,
            self.ledger,
            staging,
            files,
            policy=Policy(max_attempts=workplace.manifest.retry.attempts),
            selection=selection_of(narrowing, asked.snapshot, asked.rows),
            only_raised=True,
            cut_in=self.shard_ids,
        )
        rendered = render_all(
            replace(render_source(workplace, asked.snapshot), prompt=asked.prompt.source),
            asked.rows,
            workers=self.workers,
            check_stop=self.check_stop,
            tell=lambda what: self.reporter.tell(Trouble(what=what)),
        )
        with closing(rendered) as pieces:
            for piece in pieces:
                comparison.add(piece)
        return comparison

    def _is_affordable(self, comparison: Comparison, shards: tuple[SealedShard, ...]) -> bool:
        """Whether all this may be sent besides what was sent before, failures of a moment ago included."""
        allowance = Allowance(self.workplace, self.ledger, run_id=self.run_id, manifest_id=self.manifest_id)
        requests = sum(shard.requests for shard in shards)
        expected = comparison.estimate(requests)
        if allowance.takes_all(expected, requests):
            return True
        cost = "an unknown sum" if expected.cost is None else shown_cost(expected.cost)
        what = f"answers that were cut stay so: a larger limit may cost {cost}; {allowance.text}"
        self.reporter.tell(Trouble(what=what))
        return False


def _may_lead_on(ledger: Ledger, manifest_id: int) -> bool:
    """Whether a row was cut, or a larger request may have failed and its row must go back."""
    by_status = ledger.totals(manifest_id).by_status
    return any(by_status.get(status, 0) for status in Status if status is not Status.SUCCEEDED)
