"""The last run of a manifest, to be brought to its end as it was planned.

Nothing is planned: no row is rendered, nothing is asked that this run did not want. What it asked comes from
the ledger (model, params, schema, the kept template and snapshot), and so does what may be sent for it again
(its budget, `retry`, `on_truncated`, the rows it was narrowed to): an edit is for the next run, and an option
for the run that it was given to. Where the table goes and what may fail, the manifest says as it is now.

Two ask for that. A schedule's look does, whatever was edited since (`last_run`): it collects every few
minutes at the price of a look, and an edit waits for the next run. Only a run that was made for another
server than the manifest names now is left, as `run` leaves it. And `run` does where a run was cut off or
left alone and nothing at all moved since (`cut_off_run`): a plan would come to what is on its way already.
A plan is made all the same where something is still to be sent: a shard that was not created, a row that
nobody asked, a failure that may be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from runner.commands.asked import asked_by
from runner.commands.checking import mistakes_of_targets
from runner.commands.documents import (
    asking_recorded,
    document_of,
    params_of,
    provider_of,
    repeats_of,
    schema_of,
)
from runner.commands.inputs import narrowing_recorded
from runner.commands.options import Narrowing
from runner.commands.raising import Asked
from runner.commands.repeating import inputs_of_unmoved
from runner.commands.under_way import is_elsewhere, under_way
from runner.commands.workplace import Workplace, lowered
from runner.core.states import ShardState, Submission
from runner.errors import LedgerError
from runner.ledger import Ledger, RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """A run that goes on. `workplace` asks as the run did; `ended` are its shards that are done. `narrowing`
    is the run's own, None where it can't be worked out again."""

    run: RunRecord
    workplace: Workplace
    asked: Asked
    ended: tuple[Submission, ...]
    narrowing: Narrowing | None


def last_run(workplace: Workplace, ledger: Ledger, manifest_id: int) -> Going:
    """The run whose rows are the manifest's. Raises LedgerError where there is none, where it was made for
    another server, or what it was made of is gone."""
    run = ledger.current_run(manifest_id)
    if run is None:
        raise LedgerError(
            f"{workplace.manifest_path}: no run of it that could go on", next_step=_again(workplace)
        )
    if is_elsewhere(workplace, run):
        raise _left_elsewhere(workplace, run)
    asked = asked_by(run, ledger=ledger, place=workplace.place, is_isolated=workplace.is_isolated)
    if isinstance(asked, str):
        raise LedgerError(
            f"{workplace.manifest_path}: its last run can't go on: {asked}", next_step=_again(workplace)
        )
    return Going(
        run=run,
        workplace=_as_asked(workplace, run),
        asked=Asked(snapshot=str(asked.snapshot), rows=run.rows, prompt=asked.prompt),
        ended=tuple(
            ledger.submission(record.shard_id)
            for record in ledger.shards(manifest_id)
            if record.run_id == run.id and record.state is ShardState.DONE
        ),
        narrowing=_narrowing_of(run),
    )


def cut_off_run(workplace: Workplace, ledger: Ledger, manifest_id: int, run: RunRecord) -> Going | None:
    """The last run, which was cut off, where nothing is to be done but to bring it to its end."""
    if not _is_all_on_its_way(workplace, ledger, manifest_id) or mistakes_of_targets(workplace.manifest):
        return None
    if inputs_of_unmoved(workplace, run) is None:
        return None
    try:
        return last_run(workplace, ledger, manifest_id)
    except LedgerError:
        return None  # planned anew, it needs nothing that is gone


def _is_all_on_its_way(workplace: Workplace, ledger: Ledger, manifest_id: int) -> bool:
    """Whether every row has its answer, or its failure for good, or waits for a shard that was begun.

    What was never sent goes through a plan: that looks whether it is still wanted (by a run without the
    options of the one before, say), at its cost, and asks a person. Where answers that were cut may be asked
    again, a shard must be under way, because that is looked at when shards have come to their end, and no row
    must have been left out, because none of those is asked again."""
    return (
        not any(record.state.is_unpaid for record in ledger.shards(manifest_id))
        and (len(workplace.ladder) == 1 or _asks_all_cut(workplace, ledger, manifest_id))
        and not ledger.has_unasked(manifest_id)
        and not _is_to_be_planned_again(workplace, ledger, manifest_id)
    )


def _asks_all_cut(workplace: Workplace, ledger: Ledger, manifest_id: int) -> bool:
    run = ledger.current_run(manifest_id)
    is_whole = run is not None and narrowing_recorded(run.inputs) == Narrowing()
    return is_whole and bool(under_way(workplace, ledger, manifest_id))


def _is_to_be_planned_again(workplace: Workplace, ledger: Ledger, manifest_id: int) -> bool:
    """Whether a failure may be repeated, by a plan. One that waits for room in the server's queue goes on as
    part of this run: a plan would send everything at once, and nothing of it would be let in."""
    if not any(ledger.repeatable(manifest_id, workplace.manifest.retry.attempts)):
        return False
    shard_id, _ = ledger.queued_out(manifest_id) or (0, "")
    run = ledger.current_run(manifest_id)
    return run is None or not any(
        record.shard_id == shard_id and record.run_id == run.id for record in ledger.shards(manifest_id)
    )


def _left_elsewhere(workplace: Workplace, run: RunRecord) -> LedgerError:
    server = provider_of(run).base_url or provider_of(run).name
    return LedgerError(
        f"{workplace.manifest_path}: its last run was made for another server ({server}) and is left; what "
        "is on its way there ends there, and is collected when the manifest names that server again",
        next_step=f"name that server again, or run {workplace.manifest.path}: it asks the server of now",
    )


def _again(workplace: Workplace) -> str:
    return f"run {workplace.manifest.path}: it plans anew, and pays for nothing twice"


def _narrowing_of(run: RunRecord) -> Narrowing | None:
    """`--only` speaks of the run before, whose rows are no longer there to be compared with."""
    narrowing = narrowing_recorded(run.inputs)
    return None if narrowing is None or narrowing.only is not None else narrowing


def _as_asked(workplace: Workplace, run: RunRecord) -> Workplace:
    """The workplace with what makes a request, and says whether it is sent again, as it was in this run.
    Files and batches are bounded by what `batch` says now, too."""
    manifest = workplace.manifest
    if run.document is None or run.document == document_of(manifest).decode():
        return workplace
    asking = asking_recorded(run)
    manifest = replace(
        manifest,
        prompt=replace(manifest.prompt, params=params_of(run)),
        model=replace(asking.model, provider=manifest.model.provider),
        batch=asking.batch,
        retry=asking.retry,
        budget=asking.budget,
        on_truncated=asking.on_truncated,
        output=replace(manifest.output, schema=schema_of(run)),
        repeats=repeats_of(run),
    )
    return replace(workplace, manifest=manifest, provider=lowered(workplace.provider, manifest))
