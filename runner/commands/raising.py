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
from runner.commands.retrying import LOOKS, next_slot, planned
from runner.commands.sharding import SealedShard, ShardFiles
from runner.commands.spending import Allowance
from runner.commands.workplace import Workplace
from runner.core.model import Status
from runner.core.planning import Policy, shown_cost
from runner.failpoints import failpoint
from runner.ledger import Ledger, PlanMovedError, Staging
from runner.prompt import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a run's rows were asked with, frozen: the snapshot's path, its number of rows, template texts."""

    snapshot: str
    rows: int
    prompt: Prompt


def ask_larger(
    workplace: Workplace,
    ledger: Ledger,
    asked: Asked,
    *,
    run_id: int,
    manifest_id: int,
    narrowing: Narrowing,
    workers: int | None,
    reporter: Reporter,
    check_stop: Callable[[], None],
) -> None:
    """Place larger requests for what was cut; they are under way then. Nothing where nothing was cut.

    Where another run has sent one of them meanwhile, it is looked again, and waits for that one.
    """
    if len(workplace.ladder) == 1 or not _may_lead_on(ledger, manifest_id):
        return
    for look in range(1, LOOKS + 1):
        try:
            _place_larger(
                workplace,
                ledger,
                asked,
                run_id=run_id,
                manifest_id=manifest_id,
                narrowing=narrowing,
                workers=workers,
                reporter=reporter,
                check_stop=check_stop,
            )
        except PlanMovedError as moved:
            if look == LOOKS:
                reporter.tell(Trouble(what=f"not asked with a larger limit now: {moved.what}"))
        else:
            return


def _place_larger(
    workplace: Workplace,
    ledger: Ledger,
    asked: Asked,
    *,
    run_id: int,
    manifest_id: int,
    narrowing: Narrowing,
    workers: int | None,
    reporter: Reporter,
    check_stop: Callable[[], None],
) -> None:
    """One look, and what it finds in new shards. Errors: PlanMovedError, and then nothing is left of it."""
    failpoint("raise.begins")
    folder = workplace.place.folder
    with tempfile.TemporaryDirectory(prefix="raise-", dir=folder / "scratch") as scratch:
        files = ShardFiles(
            workplace.provider.limits,
            folder=folder / "shards",
            scratch=Path(scratch),
            owner=workplace.file_owner,
            first_slot=next_slot(ledger, manifest_id, run_id),
        )
        with Staging.create(Path(scratch)) as staging:
            try:
                comparison = Comparison(
                    workplace,
                    ledger,
                    staging,
                    files,
                    policy=Policy(max_attempts=workplace.manifest.retry.attempts),
                    selection=selection_of(narrowing, asked.snapshot, asked.rows),
                    only_raised=True,
                )
                if narrowing.only in ("new", "changed"):
                    staging.load_previous(ledger.previous_rows(manifest_id))
                source = replace(render_source(workplace, asked.snapshot), prompt=asked.prompt.source)
                rendered = render_all(
                    source,
                    asked.rows,
                    workers=workers,
                    check_stop=check_stop,
                    tell=lambda what: reporter.tell(Trouble(what=what)),
                )
                with closing(rendered) as pieces:
                    for piece in pieces:
                        comparison.add(piece)
                shards = tuple(comparison.seal(asked.rows))
                allowance = Allowance(workplace, ledger, run_id=run_id, manifest_id=manifest_id)
                if shards and not _is_affordable(allowance, comparison, shards, reporter):
                    files.discard()
                    return
                failpoint("raise.sealed")
                ledger.commit_plan(
                    run_id=run_id, manifest_id=manifest_id, staging=staging, shards=planned(shards, workplace)
                )
            except BaseException:
                files.discard()
                raise
    failpoint("raise.committed")
    if shards:
        requests = sum(shard.requests for shard in shards)
        reporter.tell(Raising(requests=requests, shards=len(shards)))


def _may_lead_on(ledger: Ledger, manifest_id: int) -> bool:
    """Whether a row was cut, or a larger request may have failed and its row must go back."""
    by_status = ledger.totals(manifest_id).by_status
    return any(by_status.get(status, 0) for status in Status if status is not Status.SUCCEEDED)


def _is_affordable(
    allowance: Allowance, comparison: Comparison, shards: tuple[SealedShard, ...], reporter: Reporter
) -> bool:
    """Whether all this may be sent besides what was sent before, the failures of a moment ago included."""
    requests = sum(shard.requests for shard in shards)
    expected = comparison.estimate(requests)
    if allowance.takes_all(expected, requests):
        return True
    cost = "an unknown sum" if expected.cost is None else shown_cost(expected.cost)
    what = f"answers that were cut stay so: a larger limit may cost {cost}; {allowance.text}"
    reporter.tell(Trouble(what=what))
    return False
