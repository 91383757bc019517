"""The end of a run: what it came to, as a value and in the ledger; the input files that it needs no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.commands.moments import Finished
from runner.commands.totals import Totals
from runner.core.model import Manifest, Status
from runner.core.planning import cost_of
from runner.core.states import ShardState, Submission
from runner.errors import EXIT_DONE, EXIT_FAILED_ROWS
from runner.failpoints import failpoint
from runner.ledger import Ledger, RunState
from runner.ledger import Totals as RunTotals


def finished_run(
    manifest: Manifest,
    totals: Totals,
    paid: tuple[int, int],
    *,
    run: str,
    ended: Sequence[Submission],
    duration_s: float,
) -> Finished:
    """`ended`: every shard that came to its end, those that earlier runs sent too. `paid`: input and output
    tokens of all that came in while this run worked, whatever became of it."""
    counts = {status: totals.by_status.get(status, 0) for status in Status}
    failed = totals.rows - counts[Status.SUCCEEDED] - counts[Status.PENDING]
    tolerated = manifest.allow_failures.allows(failed, totals.rows)
    ours = {one.shard_id: one for one in ended if one.run == run and one.batch_id is not None}
    prices = manifest.model.prices
    return Finished(
        rows=totals.rows,
        **{status.value: count for status, count in counts.items()},
        requests_sent=sum(one.requests for one in ours.values()),
        batches=len(ours),
        results=manifest.output.paths,
        input_tokens=totals.input_tokens,
        output_tokens=totals.output_tokens,
        cost=totals.cost,
        paid_input_tokens=paid[0],
        paid_output_tokens=paid[1],
        paid_cost=cost_of(*paid, prices) if prices is not None else None,
        refresh_failed=totals.refresh_failed,
        currency=prices.currency if prices is not None else None,
        exit_code=EXIT_DONE if tolerated else EXIT_FAILED_ROWS,
        run=run,
        manifest=manifest.name,
        duration_s=round(duration_s, 3),
    )


def history_target(manifest: Manifest, folder: Path, run: str) -> Path | None:
    """A table of the run's own where none of the published ones is Parquet."""
    if any(path.endswith(".parquet") for path in manifest.output.paths):
        return None
    return history_path(folder, run)


def remove_collected(ledger: Ledger, manifest_id: int, folder: Path) -> None:
    """Input files are kept until collected; one that an open shard still needs stays."""
    for record in ledger.shards(manifest_id):
        path = folder / record.path
        if record.state is ShardState.DONE and path.exists() and not ledger.needs_file(record.path):
            path.unlink(missing_ok=True)
            failpoint("publish.shard_removed")


def history_path(folder: Path, uid: str) -> Path:
    """Where a run's table is kept."""
    place = folder / "history"
    place.mkdir(mode=0o700, exist_ok=True)
    return place / f"{uid}.parquet"


def record_end(
    ledger: Ledger, run_id: int, state: RunState, exit_code: int | None, finished: Finished | None
) -> None:
    """The end of a run, whatever it was."""
    totals = None
    if finished is not None:
        totals = RunTotals(
            rows=finished.rows,
            by_status={status: getattr(finished, status.value) for status in Status},
            input_tokens=finished.input_tokens,
            output_tokens=finished.output_tokens,
            cost=finished.cost,
            paid_cost=finished.paid_cost,
        )
    ledger.end_run(run_id, state=state, exit_code=exit_code, totals=totals)
