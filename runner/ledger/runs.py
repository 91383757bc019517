"""Manifests and runs: what was started, with what, and how it ended.

The rule: a run is a frozen snapshot - its digests say what it was made from. A run that still says
`running` when the next one of its manifest starts was killed, because its manifest's lock is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, Table, delete, func, insert, select, update

from runner.core.model import Status
from runner.ledger.reading import load_paid
from runner.ledger.records import ManifestRecord, RunRecord, RunStart, RunState, Totals
from runner.ledger.tables import batch, manifest, run, shard, template
from runner.ledger.times import iso, moment, moment_or_none

RESTORED = (
    *("started_at", "manifest_digest", "template_digest", "dataset_digest"),
    *("version", "git_commit", "model", "rows", "document"),
)
"""What the journal knows of a run, under the names of its columns."""
_ANSWERED = (Status.SUCCEEDED,)
_NOT_FAILED = (*_ANSWERED, Status.UNSENDABLE, Status.PENDING)


def ensure_manifest(connection: Connection, path: str, name: str) -> int:
    """The manifest's id; recorded if it is new, renamed if its name has changed."""
    held = connection.execute(
        select(manifest.c.id, manifest.c.name).where(manifest.c.path == path)
    ).one_or_none()
    if held is None:
        return _insert(connection, manifest, {"path": path, "name": name})
    if held.name != name:
        connection.execute(update(manifest).where(manifest.c.id == held.id).values(name=name))
    return int(held.id)


def find_manifest(connection: Connection, path: str) -> int | None:
    """The manifest's id, or None if it never ran."""
    return connection.execute(select(manifest.c.id).where(manifest.c.path == path)).scalar_one_or_none()


def load_manifests(connection: Connection) -> list[ManifestRecord]:
    """Every manifest, by path."""
    return [
        ManifestRecord(id=found.id, path=found.path, name=found.name, current_run_id=found.current_run_id)
        for found in connection.execute(select(manifest).order_by(manifest.c.path))
    ]


def start(connection: Connection, begin: RunStart, now_s: float) -> int:
    """Record a run as running; earlier ones of the manifest that were killed become interrupted."""
    of_manifest = (run.c.manifest_id == begin.manifest_id, run.c.state == "running")
    for run_id in connection.execute(select(run.c.id).where(*of_manifest)).scalars().all():
        paid = load_paid(connection, run_id)
        connection.execute(
            update(run)
            .where(run.c.id == run_id)
            .values(
                state="interrupted",
                finished_at=iso(now_s),
                paid_input_tokens=paid[0],
                paid_output_tokens=paid[1],
            )
        )
    if begin.template_texts is not None:
        _keep_template(connection, begin.template_digest, begin.template_texts)
    return _insert(
        connection,
        run,
        {
            "uid": begin.uid,
            "manifest_id": begin.manifest_id,
            "started_at": iso(now_s),
            "state": "running",
            "manifest_digest": begin.manifest_digest,
            "template_digest": begin.template_digest,
            "dataset_digest": begin.dataset_digest,
            "version": begin.version,
            "git_commit": begin.git_commit,
            "snapshot": begin.snapshot,
            "model": begin.model,
            "rows": begin.rows,
            "document": begin.document,
            "inputs": begin.inputs,
        },
    )


def _keep_template(connection: Connection, digest: str, texts: str) -> None:
    """Once for each digest, however many runs use it."""
    if load_template(connection, digest) is None:
        connection.execute(insert(template).values(digest=digest, texts=texts))


def load_template(connection: Connection, digest: str) -> str | None:
    """The texts behind a template digest, as JSON; None where they were never kept."""
    return connection.execute(
        select(template.c.texts).where(template.c.digest == digest)
    ).scalar_one_or_none()


def fact_of(connection: Connection, run_id: int, now_s: float) -> dict[str, Any]:
    """A run that is about to send something, as a line of the journal."""
    found = connection.execute(
        select(run, manifest.c.path.label("manifest"), manifest.c.name)
        .join(manifest, manifest.c.id == run.c.manifest_id)
        .where(run.c.id == run_id)
    ).one()
    told = ("manifest", "name", *RESTORED)
    values = found._mapping
    return {"at": iso(now_s), "what": "planned", "run": found.uid} | {name: values[name] for name in told}


def forget(connection: Connection, run_id: int) -> None:
    """Remove a run that placed nothing."""
    connection.execute(delete(run).where(run.c.id == run_id))


def note(connection: Connection, run_id: int, **facts: str | None) -> None:
    """Record `inputs`, `published` or `history` of a run."""
    connection.execute(update(run).where(run.c.id == run_id).values(**facts))


def find(connection: Connection, text: str) -> list[RunRecord]:
    """Runs whose uid begins with `text`, newest first."""
    query = select(run).where(run.c.uid.startswith(text, autoescape=True)).order_by(run.c.id.desc())
    return [_run(found) for found in connection.execute(query)]


def end(
    connection: Connection,
    run_id: int,
    *,
    state: RunState,
    exit_code: int | None,
    totals: Totals | None,
    now_s: float,
) -> None:
    """Record how a run ended. `requests_sent` is counted here, from its shards that became batches, and what
    was paid, from the shards that it collected."""
    sent = (
        select(func.coalesce(func.sum(shard.c.requests), 0))
        .where(shard.c.run_id == run_id, shard.c.id.in_(select(batch.c.shard_id)))
        .scalar_subquery()
    )
    paid = load_paid(connection, run_id)
    connection.execute(
        update(run)
        .where(run.c.id == run_id)
        .values(
            state=state,
            paid_input_tokens=paid[0],
            paid_output_tokens=paid[1],
            exit_code=exit_code,
            finished_at=iso(now_s),
            requests_sent=sent,
            **({} if totals is None else _figures(totals)),
        )
    )


def _figures(totals: Totals) -> dict[str, Any]:
    return {
        "succeeded": totals.count(*_ANSWERED),
        "failed": totals.count(*(status for status in Status if status not in _NOT_FAILED)),
        "unsendable": totals.count(Status.UNSENDABLE),
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "cost": totals.cost,
        "paid_cost": totals.paid_cost,
    }


def load_runs(connection: Connection, manifest_id: int, limit: int) -> list[RunRecord]:
    """The last runs of a manifest, newest first."""
    query = select(run).where(run.c.manifest_id == manifest_id).order_by(run.c.id.desc()).limit(limit)
    return [_run(found) for found in connection.execute(query)]


def load_current(connection: Connection, manifest_id: int) -> RunRecord | None:
    """The run whose rows are the manifest's current ones."""
    query = (
        select(run).join(manifest, manifest.c.current_run_id == run.c.id).where(manifest.c.id == manifest_id)
    )
    found = connection.execute(query).one_or_none()
    return None if found is None else _run(found)


def _run(found: Row[Any]) -> RunRecord:
    values = dict(found._mapping)
    values["started_at"] = moment(found.started_at)
    values["finished_at"] = moment_or_none(found.finished_at)
    return RunRecord(**values)


def _insert(connection: Connection, table: Table, values: Mapping[str, Any]) -> int:
    (key,) = connection.execute(insert(table).values(values)).inserted_primary_key or (0,)
    return int(key)
