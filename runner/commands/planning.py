"""The whole dataset rendered and compared with the ledger: everything is known before anything is spent.

Works on a scratch database and scratch files only. The ledger is read, never written, until the gate is
passed and `commit` is called; a crash before that leaves nothing but scratch.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from runner.commands.checking import (
    check_everything,
    lacking_warnings,
    mistakes_together,
    render_source,
)
from runner.commands.comparing import Comparison
from runner.commands.discarding import to_be_taken_back
from runner.commands.documents import document_of, repeats_of, texts_as_json
from runner.commands.foretelling import replaced_warnings
from runner.commands.incremental import compare_what_differs, rows_that_differ
from runner.commands.keeping import Keeper
from runner.commands.moments import Planned, Reporter, RowsRead, RowsRendered, Trouble
from runner.commands.narrowing import Selection, selection_of
from runner.commands.options import Narrowing, PlanDigests, RunOptions
from runner.commands.prompt_of import prompt_source
from runner.commands.reasons import reasons_of
from runner.commands.render_pool import render_all
from runner.commands.rendering import RenderSource
from runner.commands.sharding import CountingShards, SealedShard, ShardFiles
from runner.commands.tables import says_what_is_so, tables_of_others
from runner.commands.times import as_parameters, as_record, usual_times
from runner.commands.workplace import Workplace
from runner.core.model import RunTimes
from runner.core.planning import Plan, Policy
from runner.dataset import Snapshot, close_snapshots, take_snapshot
from runner.errors import InputError, Mistake
from runner.failpoints import failpoint
from runner.ledger import Comparison as Compared
from runner.ledger import Ledger, RunRecord, Staging
from runner.prompt import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A plan with all that carrying it out needs. `digests` change when anything of it moves.

    `warnings`: what is perhaps not meant, to be told before anything is sent.
    """

    plan: Plan
    digests: PlanDigests
    causes: tuple[str, ...]
    snapshot: Snapshot
    staging: Staging
    shards: tuple[SealedShard, ...]
    files: ShardFiles | None
    prompt: Prompt
    manifest_digest: str
    previous: RunRecord | None
    times_read: dict[str, str]
    narrowing: Narrowing
    warnings: tuple[Mistake, ...]

    @property
    def template_texts(self) -> str:
        """The texts behind the template's digest, as JSON: enough to render this prompt again."""
        return texts_as_json(self.prompt.source)

    def discard_files(self) -> None:
        """Remove the input files: they are not sent."""
        if self.files is not None:
            self.files.discard()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """The rows as they are now, the prompt for them, and the moments of the run."""

    times: RunTimes
    snapshot: Snapshot
    prompt: Prompt
    source: RenderSource


@contextmanager
def prepared(
    workplace: Workplace,
    ledger: Ledger | None,
    options: RunOptions,
    *,
    write_shards: bool,
    reporter: Reporter,
    check_stop: Callable[[], None],
) -> Iterator[Prepared]:
    """Snapshot, render, compare, split. The scratch folder goes with the context.

    `check_stop` is called between pieces and raises where a person interrupted.
    """
    with _scratch_folder(workplace, keep_in_project=write_shards) as scratch:
        inputs = _inputs(workplace, ledger, options, scratch, reporter)
        files = _shard_files(workplace, scratch) if write_shards else None
        with Staging.create(scratch) as staging, _discarded_on_error(files):
            previous = _last_run(workplace, ledger)
            comparison, keeper = _comparison(workplace, ledger, options, inputs, staging, previous, files)
            differing = None
            if keeper is not None and previous is not None:
                differing = rows_that_differ(workplace, previous, inputs.snapshot, inputs.prompt)
            if keeper is not None and differing is not None:
                compare_what_differs(
                    inputs.source,
                    inputs.snapshot.rows,
                    differing,
                    keeper=keeper,
                    comparison=comparison,
                    check_stop=check_stop,
                    tell=lambda: _tell_rendered(reporter, comparison, inputs),
                )
            else:
                _compare_all(inputs, comparison, options, check_stop, reporter)
            close_snapshots()  # hours of waiting may follow, and nothing more is read of the rows
            failpoint("plan.rendered")
            plan = _conclude(
                workplace,
                ledger,
                comparison,
                staging,
                inputs,
                previous,
                files,
                only_data=differing is not None,
                options=options,
            )
            reporter.tell(Planned(plan=plan.plan, causes=plan.causes))
            yield plan


def _inputs(
    workplace: Workplace, ledger: Ledger | None, options: RunOptions, scratch: Path, reporter: Reporter
) -> _Inputs:
    """Raises InputError with all that is wrong."""
    times = options.times or usual_times(workplace, ledger)
    snapshot = _rows_of(workplace, times, scratch)
    failpoint("plan.snapshot")
    reporter.tell(RowsRead(rows=snapshot.rows))
    source = render_source(workplace, snapshot.path, times)
    prompt = source.prompt.compile([column.name for column in snapshot.columns])
    source = replace(source, prompt=prompt.source)  # workers render the texts that were read here
    also = tables_of_others(workplace, ledger) if ledger is not None else []
    check_everything(workplace, snapshot, prompt, also=also)
    return _Inputs(times=times, snapshot=snapshot, prompt=prompt, source=source)


def _rows_of(workplace: Workplace, times: RunTimes, scratch: Path) -> Snapshot:
    """The dataset as it is now. Raises InputError, then with the template's mistakes too."""
    try:
        path = scratch / "snapshot.parquet"
        return take_snapshot(workplace.manifest, path, scratch=scratch, parameters=as_parameters(times))
    except InputError as error:
        try:
            also = mistakes_together(workplace, None, prompt_source(workplace, times).compile())
        except InputError as second:
            also = list(second.mistakes)
        raise InputError([*error.mistakes, *also], next_step=error.next_step) from None


def _shard_files(workplace: Workplace, scratch: Path) -> ShardFiles:
    folder = workplace.place.folder / "shards"
    return ShardFiles(workplace.provider.limits, folder=folder, scratch=scratch, owner=workplace.file_owner)


@contextmanager
def _discarded_on_error(files: ShardFiles | None) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if files is not None:
            files.discard()
        raise


def _comparison(
    workplace: Workplace,
    ledger: Ledger | None,
    options: RunOptions,
    inputs: _Inputs,
    staging: Staging,
    previous: RunRecord | None,
    files: ShardFiles | None,
) -> tuple[Comparison, Keeper | None]:
    """With a keeper where rows that are as they were may stay as they are; else the last run's rows are
    staged, to be compared with."""
    policy = policy_of(workplace, options)
    selection = selection_of(options.narrowing, inputs.snapshot.path, inputs.snapshot.rows)
    taken_back = frozenset() if files is not None else _to_be_taken_back(workplace, ledger)
    keeper = None
    if ledger is not None and previous is not None:
        if not taken_back and _may_keep(workplace, previous, policy, selection):
            keeper = Keeper(ledger, previous.manifest_id, staging)
        else:
            staging.load_previous(ledger.previous_rows(previous.manifest_id))
    comparison = Comparison(
        workplace,
        ledger,
        staging,
        files or CountingShards(workplace.provider.limits),
        policy=policy,
        selection=selection,
        taken_back=taken_back,
        keeper=keeper,
    )
    return comparison, keeper


def _compare_all(
    inputs: _Inputs,
    comparison: Comparison,
    options: RunOptions,
    check_stop: Callable[[], None],
    reporter: Reporter,
) -> None:
    """Every row rendered, and compared piece by piece."""
    rendered = render_all(
        inputs.source,
        inputs.snapshot.rows,
        workers=options.workers,
        check_stop=check_stop,
        tell=lambda what: reporter.tell(Trouble(what=what)),
    )
    with closing(rendered) as pieces:
        for piece in pieces:
            comparison.add(piece)
            _tell_rendered(reporter, comparison, inputs)


def _tell_rendered(reporter: Reporter, comparison: Comparison, inputs: _Inputs) -> None:
    reporter.tell(RowsRendered(rows=comparison.rows, total=inputs.snapshot.rows))


def _conclude(
    workplace: Workplace,
    ledger: Ledger | None,
    comparison: Comparison,
    staging: Staging,
    inputs: _Inputs,
    previous: RunRecord | None,
    files: ShardFiles | None,
    *,
    only_data: bool,
    options: RunOptions,
) -> Prepared:
    """`only_data`: what else a request rests on is what it was in the last run."""
    snapshot, prompt = inputs.snapshot, inputs.prompt
    times_read = _times_read(inputs)
    shards = tuple(comparison.seal(snapshot.rows))
    document = document_of(workplace.manifest)
    digests = _digests(document, inputs, previous, shards)
    compared = staging.compare()
    reasons = reasons_of(
        workplace,
        previous,
        document=document,
        template_digest=prompt.digest(),
        times={name: times_read[name] for name in prompt.times_read([]) if name in times_read},
        snapshot=snapshot,
        staging=staging,
        compared=compared,
        only_data=only_data,
    )
    plan = comparison.plan(shards, compared, reasons)
    is_as_it_was = _is_as_it_was(workplace, ledger, previous, inputs, plan, compared)
    is_queried = workplace.manifest.dataset.query is not None
    where = workplace.manifest.where("dataset.query" if is_queried else "dataset.path")
    return Prepared(
        plan=replace(plan, writes_table=not is_as_it_was),
        digests=digests,
        causes=tuple(comparison.causes),
        snapshot=snapshot,
        staging=staging,
        shards=shards,
        files=files,
        prompt=prompt,
        manifest_digest=digests.manifest,
        previous=previous,
        times_read=times_read,
        narrowing=options.narrowing,
        warnings=(
            *([Mistake(where="--where", what="no row fits it")] if comparison.fits_none else []),
            *lacking_warnings(workplace.manifest, snapshot, prompt),
            *replaced_warnings(ledger, previous, options, where, snapshot, staging),
        ),
    )


def _digests(
    document: bytes, inputs: _Inputs, previous: RunRecord | None, shards: tuple[SealedShard, ...]
) -> PlanDigests:
    """What the plan rests on; `document` is the whole manifest."""
    requests = "\n".join(shard.sha for shard in shards)
    return PlanDigests(
        manifest=sha256(document).hexdigest(),
        template=inputs.prompt.digest(),
        dataset=inputs.snapshot.digest,
        last_run=previous.uid if previous is not None else "",
        requests=sha256(requests.encode()).hexdigest() if shards else "",
    )


def _is_as_it_was(
    workplace: Workplace,
    ledger: Ledger | None,
    previous: RunRecord | None,
    inputs: _Inputs,
    plan: Plan,
    compared: Compared,
) -> bool:
    """Whether the tables of the last run say already what this one's would."""
    return (
        ledger is not None
        and previous is not None
        and previous.dataset_digest == inputs.snapshot.digest
        and not (compared.new or compared.changed or compared.removed)
        # Of a row without a request another template may have another cause.
        and not (plan.unsendable and previous.template_digest != inputs.prompt.digest())
        and says_what_is_so(workplace, ledger, previous)
    )


def _times_read(inputs: _Inputs) -> dict[str, str]:
    """The moments of the run, as far as its query or its template reads them."""
    columns = [column.name for column in inputs.snapshot.columns]
    names = {*inputs.snapshot.parameters, *inputs.prompt.times_read(columns)}
    return {name: text for name, text in as_record(inputs.times).items() if name in names}


def _last_run(workplace: Workplace, ledger: Ledger | None) -> RunRecord | None:
    manifest_id = ledger.find_manifest(workplace.manifest_path) if ledger is not None else None
    return ledger.current_run(manifest_id) if ledger is not None and manifest_id is not None else None


def _may_keep(workplace: Workplace, previous: RunRecord, policy: Policy, selection: Selection) -> bool:
    """Whether a row that is what it was, and has succeeded, needs nothing: no answer is asked again, no row
    has repeats or had, none is left out."""
    return (
        workplace.manifest.repeats == repeats_of(previous) == 1
        and len(workplace.ladder) == 1
        and policy.refresh_before_s is None
        and not policy.retry_failed
        and selection.takes_all
    )


def _to_be_taken_back(workplace: Workplace, ledger: Ledger | None) -> frozenset[int]:
    """Requests in shards that were never sent: the next run plans them anew, so a plan must too.

    A run has taken them back when it compares; a plan only looks, and sees them still placed.
    """
    manifest_id = ledger.find_manifest(workplace.manifest_path) if ledger is not None else None
    if ledger is None or manifest_id is None:
        return frozenset()
    return frozenset(
        expected.request_id
        for shard_id in to_be_taken_back(workplace, ledger, manifest_id)
        for expected in ledger.expected(shard_id).values()
    )


def policy_of(workplace: Workplace, options: RunOptions) -> Policy:
    """What this run asks again."""
    manifest = workplace.manifest
    before_s: float | None = None
    ages = (manifest.refresh_older_than_s, options.refresh_older_than_s)
    if options.refresh:
        before_s = math.inf if options.goes_on_from_s is None else math.floor(options.goes_on_from_s)
    elif allowed := [age for age in ages if age is not None]:
        before_s = (options.goes_on_from_s or time.time()) - min(allowed)
    return Policy(
        max_attempts=manifest.retry.attempts,
        refresh_before_s=before_s,
        refreshes_failures=options.refresh,
        retry_failed=options.goes_on_from_s is None
        and (options.retry_failed or options.narrowing.only == "failed"),
        retry_failed_before_s=math.inf
        if options.retry_failed_before_s is None
        else math.floor(options.retry_failed_before_s),
    )


@contextmanager
def _scratch_folder(workplace: Workplace, *, keep_in_project: bool) -> Iterator[Path]:
    """Inside `.runner/` for a run (same file system as shards/), in the system's place for a plan."""
    parent = workplace.place.folder / "scratch" if keep_in_project else None
    folder = Path(tempfile.mkdtemp(prefix="plan-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
