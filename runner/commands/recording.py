"""What a run leaves in the ledger beside its answers: its record, its snapshot, its history file.

The snapshot belongs to the manifest's current rows and goes when newer rows take their place. The history
file holds a run's published table, so that two runs can be compared long after; where a Parquet table is
published anyway, it is a copy of its bytes: a link would change with the table that its owner writes into.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from runner.commands.documents import document_of
from runner.commands.finishing import history_path
from runner.commands.inputs import inputs_as_json
from runner.commands.moments import Reporter
from runner.commands.planning import Prepared
from runner.commands.retrying import planned, tell_waiting
from runner.commands.revision import git_commit
from runner.commands.sharding import sync_folder
from runner.commands.tables import table_facts
from runner.commands.totals import Totals
from runner.commands.workplace import Workplace
from runner.core.settling import MAX_RETRY_AFTER_S
from runner.failpoints import failpoint
from runner.ledger import Ledger, PlanMovedError, RunStart
from runner.results import Published
from runner.version import __version__

_COPY_BYTES = 1 << 20
_CLONE_BYTES = 1 << 30


def commit(
    workplace: Workplace,
    ledger: Ledger,
    plan: Prepared,
    *,
    uid: str,
    manifest_id: int,
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
        ledger.commit_plan(run_id=run_id, manifest_id=manifest_id, staging=plan.staging, shards=shards)
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
        inputs=inputs_as_json(
            plan.snapshot.inputs, plan.snapshot.contents, plan.times_read, narrowing=plan.narrowing
        ),
        template_texts=plan.template_texts,
    )


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
    totals: Totals,
    *,
    manifest_id: int,
    is_cancelled: bool,
    is_all_raised: bool,
) -> None:
    """Note what was written where, from which raw files and answers and with which counts, and keep the
    table as the run's history."""
    history = _keep_history(workplace.place.folder, uid, published.paths)
    failpoint("publish.history_kept")
    facts = table_facts(
        workplace,
        ledger,
        published,
        totals,
        manifest_id=manifest_id,
        is_cancelled=is_cancelled,
        is_all_raised=is_all_raised,
    )
    ledger.note_run(run_id, published=facts, history=history)
    failpoint("publish.recorded")


def _keep_history(folder: Path, uid: str, paths: Sequence[Path]) -> str | None:
    """The table as bytes of our own, private: whoever writes into the published one leaves these alone."""
    parquet = next((Path(path) for path in paths if Path(path).suffix.lower() == ".parquet"), None)
    if parquet is None:
        return None
    target = history_path(folder, uid)
    if parquet == target:  # written there, because no published table is Parquet
        target.chmod(0o600)
    else:
        _copy(parquet, target)
    return target.relative_to(folder).as_posix()


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all, durable, 0600; on file systems that can, without taking the space twice."""
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with source.open("rb") as reader, os.fdopen(descriptor, "wb") as writer:
            if not _cloned(reader.fileno(), writer.fileno()):
                reader.seek(0)
                shutil.copyfileobj(reader, writer, _COPY_BYTES)
            writer.flush()
            os.fsync(writer.fileno())
        part.replace(target)
        sync_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)


def _cloned(source: int, target: int) -> bool:
    """Let the kernel copy, which shares blocks where the file system can. False: nothing was written."""
    if sys.platform != "linux":
        return False
    is_begun = False
    try:
        while os.copy_file_range(source, target, _CLONE_BYTES):
            is_begun = True
    except OSError:
        if is_begun:
            raise
        return False
    return is_begun
