"""`run status`: what is, from the ledger alone. No network, no writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from runner.ledger import Ledger, LedgerPlace, RunRecord, locate


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """One shard and its batch. `state` is ours, `status` the server's word; times are UTC text.

    `extra_batches`: the server made these of the same create as well; they may be billed.
    """

    slot: int
    batch_id: str | None
    state: str
    status: str
    requests: int
    completed: int | None
    failed: int | None
    expires_at: str | None
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    problem: str | None
    extra_batches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestStatus:
    """The current run of one manifest. `by_status` counts rows. `is_cancelled`: somebody has cancelled it
    since it was asked for last, before it was done."""

    manifest: str
    name: str
    run: str
    state: str
    started_at: str
    finished_at: str | None
    by_status: dict[str, int]
    batches: tuple[BatchStatus, ...]
    is_cancelled: bool = False


def status(paths: Sequence[str], *, environ: Mapping[str, str], cwd: str) -> tuple[ManifestStatus, ...]:
    """The manifests named, or all of the ledger that belongs to the current folder."""
    if not paths:
        return _of_place(locate(str(Path(cwd) / "manifest.yaml"), environ), None)
    found: list[ManifestStatus] = []
    for path in paths:
        absolute = Path(cwd) / path
        place = locate(str(absolute), environ)
        found += _of_place(place, place.relative(absolute))
    return tuple(found)


def _of_place(place: LedgerPlace, path: str | None) -> tuple[ManifestStatus, ...]:
    ledger = Ledger.open_reading(place)
    if ledger is None:
        return ()
    try:
        return tuple(
            one
            for manifest in ledger.manifests()
            if path is None or manifest.path == path
            if (one := _of_manifest(ledger, manifest.id, manifest.path, manifest.name)) is not None
        )
    finally:
        ledger.close()


def _utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _of_manifest(ledger: Ledger, manifest_id: int, path: str, name: str) -> ManifestStatus | None:
    run = ledger.current_run(manifest_id)
    if run is None:
        return None
    totals = ledger.totals(manifest_id)
    return ManifestStatus(
        manifest=path,
        name=name,
        run=run.uid,
        state=run.state,
        started_at=_utc(run.started_at),
        finished_at=_utc(run.finished_at) if run.finished_at is not None else None,
        by_status={status.value: count for status, count in totals.by_status.items() if count},
        batches=tuple(
            BatchStatus(
                slot=shard.slot,
                batch_id=shard.batch_id,
                state=shard.state,
                status=shard.status or "",
                requests=shard.requests,
                completed=shard.completed,
                failed=shard.failed,
                expires_at=_utc(shard.expires_at) if shard.expires_at is not None else None,
                input_file_id=shard.input_file_id,
                output_file_id=shard.output_file_id,
                error_file_id=shard.error_file_id,
                problem=shard.problem,
                extra_batches=tuple(ledger.extra_batches(shard.shard_id)),
            )
            for shard in ledger.shards(manifest_id)
        ),
        is_cancelled=_is_cancelled(ledger, manifest_id, run),
    )


def _is_cancelled(ledger: Ledger, manifest_id: int, run: RunRecord) -> bool:
    wishes = ledger.wishes()
    asked = wishes.asked_for(run.id)
    at = wishes.cancelled_at(manifest_id, asked.after) if asked is not None else None
    done_at = run.finished_at if run.state == "finished" else None
    return at is not None and (done_at is None or at <= done_at)
