"""`run MANIFEST`: make the answers that the manifest declares exist, and write the table.

The outline::

    run
      prepared      snapshot, render, compare, split; nothing is spent
      pass_gate     budget, confirmation
      commit        run, rows, requests and shards in one transaction
      drive         upload, create, poll, collect, side by side
      retry_failed  new shards for failures that may pass; drive again
      write_results the joined table, atomically

A second `run` does the same and finds most of it done; that is how it resumes, collects and repeats.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from runner.commands.engine import Engine
from runner.commands.gate import pass_gate
from runner.commands.interrupts import StopFlag, deferred_interrupts
from runner.commands.local import connected
from runner.commands.moments import Finished, Reporter, Started, Submitted
from runner.commands.options import RunOptions
from runner.commands.planning import Prepared, prepared
from runner.commands.publishing import Totals, write_results
from runner.commands.retrying import planned, retry_failed
from runner.commands.revision import git_commit
from runner.commands.sharding import sync_folder
from runner.commands.tracks import Surroundings
from runner.commands.workplace import Workplace, open_workplace
from runner.core.model import Provider, Status
from runner.core.states import ShardState, Submission
from runner.errors import (
    EXIT_DONE,
    EXIT_FAILED_ROWS,
    EXIT_STILL_RUNNING,
    InterruptedRunError,
    RunnerError,
)
from runner.ledger import Ledger, PlanMovedError, RunStart, RunState, hold
from runner.ledger import Totals as RunTotals
from runner.manifest import answer_checker
from runner.provider import Client
from runner.version import __version__

_PLANNING_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run came to. `finished` is None where the work goes on without us (`--detach`)."""

    finished: Finished | None
    exit_code: int


def run(options: RunOptions, *, reporter: Reporter) -> RunResult:
    """The whole job for one manifest. Raises RunnerError; whatever happens, nothing paid for is lost."""
    workplace = open_workplace(options.manifest, options.environ)
    workplace.place.prepare()
    with (
        deferred_interrupts() as stop,
        hold(workplace.lock_path),
        Ledger.open(workplace.place) as ledger,
    ):
        return _Run(workplace, ledger, options, reporter, stop).go()


def run_all(options: Sequence[RunOptions], *, reporter: Reporter) -> list[RunResult | RunnerError]:
    """Several manifests: all are submitted before the first is waited for. One's error stops no other."""
    if len(options) == 1:
        return [_caught(options[0], reporter)]
    results = [_caught(replace(one, detach=True), reporter) for one in options]
    if any(one.detach for one in options):
        return results
    return [
        result if isinstance(result, RunnerError) or result.finished is not None else _caught(one, reporter)
        for one, result in zip(options, results, strict=True)
    ]


def _caught(options: RunOptions, reporter: Reporter) -> RunResult | RunnerError:
    try:
        return run(options, reporter=reporter)
    except InterruptedRunError:
        raise
    except RunnerError as error:
        return error


class _Run:
    """One execution, from plan to table."""

    def __init__(
        self,
        workplace: Workplace,
        ledger: Ledger,
        options: RunOptions,
        reporter: Reporter,
        stop: StopFlag,
    ) -> None:
        self._workplace = workplace
        self._manifest = workplace.manifest
        self._ledger = ledger
        self._options = options
        self._reporter = reporter
        self._stop = stop
        self._uid = uuid.uuid4().hex
        self._started_s = time.time()
        self._ended: list[Submission] = []

    def go(self) -> RunResult:
        manifest_id = self._ledger.ensure_manifest(self._workplace.manifest_path, self._manifest.name)
        self._take_back(manifest_id)
        under_way = self._ledger.open_submissions(manifest_id)
        self._reporter.tell(
            Started(
                manifest=self._manifest.name,
                run=self._uid,
                provider=self._workplace.provider.name,
                model=self._manifest.model.name,
                is_resumed=bool(under_way),
            )
        )
        with ExitStack() as stack:
            run_id, snapshot, rows, client, provider = self._plan_and_commit(manifest_id, stack)
            state: RunState = "failed"
            result = None
            try:
                result = self._work(run_id, manifest_id, client, provider, snapshot, rows)
                state = "detached" if result.finished is None else "finished"
            except InterruptedRunError:
                state = "interrupted"
                raise
            finally:
                self._record_end(run_id, state, result)
        return result

    # ------------------------------------------------------------ plan

    def _take_back(self, manifest_id: int) -> None:
        """Shards that were never sent are planned anew: perhaps they are not wanted any more."""
        for submission in self._ledger.discard_unpaid(manifest_id):
            (self._workplace.place.folder / submission.path).unlink(missing_ok=True)

    def _plan_and_commit(
        self, manifest_id: int, stack: ExitStack
    ) -> tuple[int, Path, int, Client | None, Provider]:
        """Plan, pass the gate, connect, commit. Planned again if another process moved the ledger."""
        for attempt in range(1, _PLANNING_ATTEMPTS + 1):
            with prepared(
                self._workplace,
                self._ledger,
                write_shards=True,
                limit=self._options.limit,
                reporter=self._reporter,
                workers=self._options.workers,
                check_stop=self._check_stop,
            ) as plan:
                pass_gate(self._manifest, self._workplace.provider, plan.plan, plan.causes, self._reporter)
                self._check_stop()
                client, provider = self._connect(manifest_id, plan, stack)
                try:
                    run_id, snapshot = self._commit(manifest_id, plan)
                except PlanMovedError:
                    stack.pop_all().close()
                    if attempt == _PLANNING_ATTEMPTS:
                        raise
                    continue
                return run_id, snapshot, plan.snapshot.rows, client, provider
        raise AssertionError("unreachable")

    def _check_stop(self) -> None:
        if self._stop.is_set:
            raise InterruptedRunError("interrupted while planning; nothing was sent")

    def _connect(self, manifest_id: int, plan: Prepared, stack: ExitStack) -> tuple[Client | None, Provider]:
        """A client where there is something to send or to collect; a run with neither needs no key."""
        if not plan.shards and not self._ledger.open_submissions(manifest_id):
            return None, self._workplace.provider
        client, provider = stack.enter_context(
            connected(self._workplace.provider, self._workplace.place.folder, self._options.environ)
        )
        return client, provider

    def _commit(self, manifest_id: int, plan: Prepared) -> tuple[int, Path]:
        """From here on the ledger holds the plan. The snapshot is durable before."""
        folder = self._workplace.place.folder
        snapshot = folder / "snapshots" / f"{self._uid}.parquet"
        Path(plan.snapshot.path).replace(snapshot)
        sync_folder(snapshot.parent)
        run_id = self._ledger.start_run(
            RunStart(
                uid=self._uid,
                manifest_id=manifest_id,
                manifest_digest=plan.manifest_digest,
                template_digest=plan.template_digest,
                dataset_digest=plan.snapshot.digest,
                version=__version__,
                git_commit=git_commit(self._workplace.place.project),
                snapshot=snapshot.relative_to(folder).as_posix(),
                model=self._manifest.model.name,
                rows=plan.snapshot.rows,
            )
        )
        self._ledger.commit_plan(
            run_id=run_id,
            manifest_id=manifest_id,
            staging=plan.staging,
            shards=planned(plan.shards, self._workplace),
        )
        self._forget_old_snapshots(manifest_id, run_id)
        return run_id, snapshot

    def _forget_old_snapshots(self, manifest_id: int, run_id: int) -> None:
        """The current rows belong to the newest snapshot; earlier ones join nothing any more."""
        for record in self._ledger.runs(manifest_id, 20):
            if record.id != run_id and record.snapshot:
                (self._workplace.place.folder / record.snapshot).unlink(missing_ok=True)

    # ------------------------------------------------------------ work

    def _work(
        self,
        run_id: int,
        manifest_id: int,
        client: Client | None,
        provider: Provider,
        snapshot: Path,
        rows: int,
    ) -> RunResult:
        if client is not None:
            at = Surroundings(
                provider=provider,
                place=self._workplace.place,
                ledger=self._ledger,
                client=client,
                reporter=self._reporter,
                run_id=run_id,
                clock=time.time,
            )
            engine = Engine(at, self._stop)
            self._drive(engine, self._ledger.open_submissions(manifest_id))
            if self._options.detach and self._ledger.open_submissions(manifest_id):
                return self._detached(manifest_id)
            while again := retry_failed(
                self._workplace,
                self._ledger,
                run_id=run_id,
                manifest_id=manifest_id,
                reporter=self._reporter,
            ):
                self._drive(engine, again)
                if self._options.detach:
                    return self._detached(manifest_id)
        return self._publish(manifest_id, snapshot, rows)

    def _drive(self, engine: Engine, submissions: list[Submission]) -> None:
        wait_s = self._options.wait_s
        self._ended += engine.drive(
            submissions,
            until_submitted=self._options.detach,
            deadline_s=None if wait_s is None else self._started_s + wait_s,
        )

    def _detached(self, manifest_id: int) -> RunResult:
        batches = sum(
            submission.state is ShardState.SUBMITTED
            for submission in self._ledger.open_submissions(manifest_id)
        )
        self._reporter.tell(Submitted(batches=batches))
        return RunResult(finished=None, exit_code=EXIT_STILL_RUNNING)

    def _publish(self, manifest_id: int, snapshot: Path, rows: int) -> RunResult:
        published, totals = write_results(
            self._workplace,
            self._ledger,
            manifest_id=manifest_id,
            snapshot=snapshot,
            rows=rows,
            check_answer=answer_checker(self._manifest.output.schema),
            reporter=self._reporter,
        )
        self._remove_collected_shards(manifest_id)
        finished = self._finished([str(path) for path in published.paths], totals)
        self._reporter.tell(finished)
        return RunResult(finished=finished, exit_code=finished.exit_code)

    def _remove_collected_shards(self, manifest_id: int) -> None:
        """Input files are kept until collected; one that an open shard still needs stays."""
        records = self._ledger.shards(manifest_id)
        needed = {record.sha for record in records if not ShardState(record.state).is_final}
        for record in records:
            if record.state == ShardState.DONE and record.sha not in needed:
                (self._workplace.place.folder / record.path).unlink(missing_ok=True)

    def _finished(self, results: list[str], totals: Totals) -> Finished:
        counts = {status: totals.by_status.get(status, 0) for status in Status}
        failed = totals.rows - counts[Status.SUCCEEDED] - counts[Status.PENDING]
        tolerated = self._manifest.allow_failures.allows(failed, totals.rows)
        ours = [one for one in self._ended if one.run == self._uid and one.batch_id is not None]
        prices = self._manifest.model.prices
        return Finished(
            rows=totals.rows,
            **{status.value: count for status, count in counts.items()},
            requests_sent=sum(one.requests for one in ours),
            batches=len(ours),
            results=tuple(results),
            input_tokens=totals.input_tokens,
            output_tokens=totals.output_tokens,
            cost=totals.cost,
            currency=prices.currency if prices is not None else None,
            exit_code=EXIT_DONE if tolerated else EXIT_FAILED_ROWS,
            run=self._uid,
            manifest=self._manifest.name,
            duration_s=round(time.time() - self._started_s, 3),
        )

    def _record_end(self, run_id: int, state: RunState, result: RunResult | None) -> None:
        finished = result.finished if result is not None else None
        totals = RunTotals(
            rows=finished.rows if finished else 0,
            by_status={status: getattr(finished, status.value) for status in Status} if finished else {},
            input_tokens=finished.input_tokens if finished else 0,
            output_tokens=finished.output_tokens if finished else 0,
        )
        exit_code = result.exit_code if result is not None else None
        self._ledger.end_run(run_id, state=state, exit_code=exit_code, totals=totals)
