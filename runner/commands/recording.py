"""What a run leaves in the ledger beside its answers: its record, its snapshot, its history file.

The snapshot belongs to the manifest's current rows and goes when newer rows take their place. The history
file holds a run's published table, so that two runs can be compared long after; where a Parquet table is
published anyway, it is the same bytes under a second name.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.commands.documents import document_of
from runner.commands.moments import Finished, Reporter
from runner.commands.planning import Prepared
from runner.commands.publishing import Totals as TableTotals
from runner.commands.retrying import planned, tell_waiting
from runner.commands.revision import git_commit
from runner.commands.sharding import sync_folder
from runner.commands.workplace import Workplace
from runner.core.model import Status
from runner.core.settling import MAX_RETRY_AFTER_S
from runner.core.wire import JsonError, decode_json, encode_json
from runner.dataset import fingerprint_of_inputs
from runner.failpoints import failpoint
from runner.ledger import Ledger, PlanMovedError, RunRecord, RunStart, RunState, Totals
from runner.results import Published
from runner.version import __version__


def commit(
    workplace: Workplace,
    ledger: Ledger,
    plan: Prepared,
    *,
    uid: str,
    manifest_id: int,
    refresh: bool,
    retry: bool,
    reporter: Reporter,
) -> int:
    """From here on the ledger holds the plan; returns the run's id. The snapshot is durable before."""
    folder = workplace.place.folder
    snapshot = folder / "snapshots" / f"{uid}.parquet"
    failpoint("commit.begins")
    Path(plan.snapshot.path).replace(snapshot)
    failpoint("commit.snapshot_renamed")
    sync_folder(snapshot.parent)
    failpoint("commit.snapshot_synced")
    begin = run_start(workplace, plan, uid=uid, manifest_id=manifest_id, snapshot=snapshot)
    run_id = ledger.start_run(begin)
    failpoint("commit.run_started")
    shards = planned(plan.shards, workplace, pause_until_s=_pause_until_s(workplace, ledger, manifest_id))
    try:
        ledger.commit_plan(
            run_id=run_id,
            manifest_id=manifest_id,
            staging=plan.staging,
            shards=shards,
            refresh=refresh,
            retry=retry,
        )
    except PlanMovedError:
        ledger.forget_run(run_id)  # it is planned again, under the same uid
        raise
    failpoint("commit.done")
    _forget_old_snapshots(workplace, ledger, manifest_id, begin.snapshot)
    failpoint("commit.snapshots_forgotten")
    tell_waiting(shards, reporter)
    return run_id


def _pause_until_s(workplace: Workplace, ledger: Ledger, manifest_id: int) -> float:
    """The pause of what was taken back unsent; bounded, because the clock may have been set back since."""
    longest_s = max(workplace.backoff.max_s, MAX_RETRY_AFTER_S)
    return min(ledger.pause(manifest_id), time.time() + longest_s)


def run_start(
    workplace: Workplace, plan: Prepared, *, uid: str, manifest_id: int, snapshot: Path
) -> RunStart:
    """The record of a run that begins."""
    return RunStart(
        uid=uid,
        manifest_id=manifest_id,
        manifest_digest=plan.manifest_digest,
        template_digest=plan.prompt.digest(),
        dataset_digest=plan.snapshot.digest,
        version=__version__,
        git_commit=git_commit(workplace.place.project),
        snapshot=snapshot.relative_to(workplace.place.folder).as_posix(),
        model=workplace.manifest.model.name,
        rows=plan.snapshot.rows,
        document=document_of(workplace.manifest).decode(),
        inputs=inputs_as_json(workplace),
        template_texts=plan.template_texts,
    )


def inputs_as_json(workplace: Workplace) -> str:
    """Path, size, mtime and inode of every input file."""
    files = fingerprint_of_inputs(workplace.manifest).files
    return encode_json([[one.path, one.size_bytes, one.mtime_ns, one.inode] for one in files]).decode()


def _forget_old_snapshots(workplace: Workplace, ledger: Ledger, manifest_id: int, current: str) -> None:
    """The current rows belong to the newest snapshot; earlier ones join nothing any more."""
    for record in ledger.runs(manifest_id, 20):
        if record.snapshot and record.snapshot != current:
            (workplace.place.folder / record.snapshot).unlink(missing_ok=True)


def record_published(
    workplace: Workplace,
    ledger: Ledger,
    run_id: int,
    uid: str,
    published: Published,
    totals: TableTotals,
    *,
    manifest_id: int,
) -> None:
    """Note what was written where, from which raw files and answers and with which counts, and keep the
    table as the run's history."""
    history = _keep_history(workplace.place.folder, uid, published.paths)
    failpoint("publish.history_kept")
    is_settled = totals.by_status[Status.PENDING] == 0 and not any(
        ledger.repeatable(manifest_id, workplace.manifest.retry.attempts)
    )
    facts = {
        "settled": is_settled,
        "tables": [_stat(path) for path in published.paths],
        "raw": sorted(totals.raw_paths),
        "answers": ledger.answers_mark(manifest_id),
        "by_status": {status.value: count for status, count in totals.by_status.items()},
        "refresh_failed": totals.refresh_failed,
        "tokens": [totals.input_tokens, totals.output_tokens],
        "cost": totals.cost,
    }
    ledger.note_run(run_id, published=encode_json(facts).decode(), history=history)
    failpoint("publish.recorded")


def published_totals(run: RunRecord) -> TableTotals:
    """The counts of the table that a run has published."""
    facts = decode_json(run.published or "")
    by_status = Counter({Status(word): count for word, count in facts["by_status"].items()})
    return TableTotals(
        by_status=by_status,
        input_tokens=facts["tokens"][0],
        output_tokens=facts["tokens"][1],
        cost=facts["cost"],
        rows=by_status.total(),
        refresh_failed=facts["refresh_failed"],
    )


def _keep_history(folder: Path, uid: str, paths: Sequence[Path]) -> str | None:
    parquet = next((Path(path) for path in paths if Path(path).suffix == ".parquet"), None)
    if parquet is None:
        return None
    target = history_path(folder, uid)
    try:
        os.link(parquet, target)
    except FileExistsError:
        pass
    except OSError:
        shutil.copyfile(parquet, target)
    return target.relative_to(folder).as_posix()


def history_path(folder: Path, uid: str) -> Path:
    """Where a run's table is kept."""
    place = folder / "history"
    place.mkdir(mode=0o700, exist_ok=True)
    return place / f"{uid}.parquet"


def _stat(path: Path) -> list[str | int]:
    found = Path(path).stat()
    return [str(path), found.st_size, found.st_mtime_ns, found.st_ino]


def is_unchanged(
    workplace: Workplace, ledger: Ledger, previous: RunRecord | None, template_digest: str
) -> bool:
    """Whether nothing at all moved since the last run, so that it need not even be rendered.

    Manifest, template, program version and the input files' size, mtime and inode are the same; the last
    run left nothing to do, its tables are untouched, and so are the answers in them: another manifest of
    the project may have asked the same requests again. A `query` may read the clock, so it is always
    asked again; a file that changed within the same clock tick as the run is not trusted either.
    """
    manifest = workplace.manifest
    if previous is None or previous.document is None or previous.published is None:
        return False
    if manifest.dataset.query is not None or manifest.refresh_older_than_s is not None:
        return False
    if previous.state != "finished" or previous.version != __version__:
        return False
    same = previous.document == document_of(manifest).decode() and previous.template_digest == template_digest
    return (
        same
        and _inputs_untouched(workplace, previous)
        and _tables_untouched(previous)
        and _fact(previous, "answers") == ledger.answers_mark(previous.manifest_id)
    )


_CLOCK_TICK_NS = 2_000_000_000


def _inputs_untouched(workplace: Workplace, previous: RunRecord) -> bool:
    if previous.inputs is None or previous.inputs != inputs_as_json(workplace):
        return False
    began_ns = int(previous.started_at.timestamp() * 1e9)
    return all(mtime_ns < began_ns - _CLOCK_TICK_NS for _, _, mtime_ns, _ in decode_json(previous.inputs))


def _tables_untouched(previous: RunRecord) -> bool:
    try:
        tables = _fact(previous, "tables")
        return bool(_fact(previous, "settled")) and all(
            _stat(Path(path))[1:] == rest for path, *rest in tables
        )
    except OSError:
        return False


def _fact(run: RunRecord, name: str) -> Any:
    """Something noted of a run's tables; None where an older version of the program noted less."""
    try:
        return decode_json(run.published or "")[name]
    except (JsonError, KeyError):
        return None


def record_end(
    ledger: Ledger, run_id: int, state: RunState, exit_code: int | None, finished: Finished | None
) -> None:
    """The end of a run, whatever it was."""
    totals = None
    if finished is not None:
        totals = Totals(
            rows=finished.rows,
            by_status={status: getattr(finished, status.value) for status in Status},
            input_tokens=finished.input_tokens,
            output_tokens=finished.output_tokens,
            cost=finished.cost,
            paid_cost=finished.paid_cost,
        )
    ledger.end_run(run_id, state=state, exit_code=exit_code, totals=totals)
