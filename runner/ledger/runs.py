"""Manifests and runs: what was started, with what, and how it ended.

The rule: a run is a frozen snapshot - its digests say what it was made from. A run that still says
`running` when the next one of its manifest starts was killed, because its manifest's lock is free.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from runner.core.model import Status
from runner.ledger import payments
from runner.ledger.bulk import Bulk, KeyedInsert, Query, RecordQuery
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

_MANIFEST = RecordQuery(
    select(manifest.c.id, manifest.c.name).where(manifest.c.path == bindparam("at_path")), "at_path"
)
_ADD_MANIFEST = KeyedInsert(manifest, "path", "name")
_RUNNING = Query(
    select(run.c.id).where(run.c.manifest_id == bindparam("of_manifest"), run.c.state == "running"),
    "of_manifest",
)
_RUN_COLUMNS = (
    *("uid", "manifest_id", "started_at", "state", "manifest_digest", "template_digest", "dataset_digest"),
    *("version", "git_commit", "snapshot", "model", "rows", "document", "inputs"),
)
_ADD_RUN = KeyedInsert(run, *_RUN_COLUMNS)
_KEEP_TEMPLATE = Bulk(
    insert(template).values(digest=bindparam("new_digest"), texts=bindparam("new_texts")),
    *("new_digest", "new_texts"),
)
_TEMPLATE = Query(select(template.c.texts).where(template.c.digest == bindparam("of_digest")), "of_digest")
_RUN_FACT = RecordQuery(
    select(run, manifest.c.path.label("manifest"), manifest.c.name)
    .join(manifest, manifest.c.id == run.c.manifest_id)
    .where(run.c.id == bindparam("this_run")),
    "this_run",
)
_NOTES = {
    name: Bulk(
        update(run).where(run.c.id == bindparam("this_run")).values({name: bindparam("noted")}),
        *("noted", "this_run"),
    )
    for name in ("inputs", "published", "history")
}
_REQUESTS_SENT = (
    select(func.coalesce(func.sum(shard.c.requests), 0))
    .where(shard.c.run_id == bindparam("this_run"), shard.c.id.in_(select(batch.c.shard_id)))
    .scalar_subquery()
)
_ENDING = ("state", "paid_input_tokens", "paid_output_tokens", "exit_code", "finished_at")
_END = Bulk(
    update(run)
    .where(run.c.id == bindparam("this_run"))
    .values({name: bindparam(f"new_{name}") for name in _ENDING} | {"requests_sent": _REQUESTS_SENT}),
    *(*(f"new_{name}" for name in _ENDING), "this_run"),
)
_RESUME = Bulk(
    update(run)
    .where(run.c.id == bindparam("this_run"))
    .values(state="running", finished_at=None, exit_code=None),
    "this_run",
)
_FIGURES = ("succeeded", "failed", "unsendable", "input_tokens", "output_tokens", "cost", "paid_cost")
_COUNT = Bulk(
    update(run)
    .where(run.c.id == bindparam("this_run"))
    .values({name: bindparam(f"new_{name}") for name in _FIGURES}),
    *(*(f"new_{name}" for name in _FIGURES), "this_run"),
)
_LAST_RUNS = RecordQuery(
    select(run)
    .where(run.c.manifest_id == bindparam("of_manifest"))
    .order_by(run.c.id.desc())
    .limit(bindparam("most")),
    *("of_manifest", "most"),
)
_CURRENT = RecordQuery(
    select(run)
    .join(manifest, manifest.c.current_run_id == run.c.id)
    .where(manifest.c.id == bindparam("this_manifest")),
    "this_manifest",
)


def ensure_manifest(connection: Connection, path: str, name: str) -> int:
    """The manifest's id; recorded if it is new, renamed if its name has changed."""
    held = _MANIFEST.record(connection, path)
    if held is None:
        return _ADD_MANIFEST.key(connection, path, name)
    if held.name != name:
        connection.execute(update(manifest).where(manifest.c.id == held.id).values(name=name))
    return int(held.id)


def find_manifest(connection: Connection, path: str) -> int | None:
    """The manifest's id, or None if it never ran."""
    found: int | None = _MANIFEST.first(connection, path)
    return found


def load_manifests(connection: Connection) -> list[ManifestRecord]:
    """Every manifest, by path."""
    return [
        ManifestRecord(id=found.id, path=found.path, name=found.name, current_run_id=found.current_run_id)
        for found in connection.execute(select(manifest).order_by(manifest.c.path))
    ]


def start(connection: Connection, begin: RunStart, now_s: float) -> int:
    """Record a run as running; earlier ones of the manifest that were killed become interrupted."""
    for (run_id,) in _RUNNING.rows(connection, begin.manifest_id):
        paid = payments.count(connection, run_id, now_s)
        connection.execute(
            update(run)
            .where(run.c.id == run_id)
            .values(
                state="interrupted",
                finished_at=iso(now_s),
                paid_input_tokens=paid.input,
                paid_output_tokens=paid.output,
            )
        )
    if begin.template_texts is not None:
        _keep_template(connection, begin.template_digest, begin.template_texts)
    digests = (begin.manifest_digest, begin.template_digest, begin.dataset_digest)
    made_with = (begin.version, begin.git_commit, begin.snapshot, begin.model, begin.rows)
    begun = (begin.uid, begin.manifest_id, iso(now_s), "running")
    return _ADD_RUN.key(connection, *begun, *digests, *made_with, begin.document, begin.inputs)


def resume(connection: Connection, run_id: int) -> None:
    """A run that was interrupted, killed or left alone is carried on."""
    _RESUME.run(connection, [(run_id,)])


def _keep_template(connection: Connection, digest: str, texts: str) -> None:
    """Once for each digest, however many runs use it."""
    if load_template(connection, digest) is None:
        _KEEP_TEMPLATE.run(connection, [(digest, texts)])


def load_template(connection: Connection, digest: str) -> str | None:
    """The texts behind a template digest, as JSON; None where they were never kept."""
    texts: str | None = _TEMPLATE.first(connection, digest)
    return texts


def fact_of(connection: Connection, run_id: int, now_s: float) -> dict[str, Any]:
    """A run that is about to send something, as a line of the journal."""
    found = _RUN_FACT.record(connection, run_id)
    told = {name: getattr(found, name) for name in ("manifest", "name", *RESTORED)}
    return {"at": iso(now_s), "what": "planned", "run": found.uid} | told


def forget(connection: Connection, run_id: int) -> None:
    """Remove a run that placed nothing."""
    connection.execute(delete(run).where(run.c.id == run_id))


def note(connection: Connection, run_id: int, **facts: str | None) -> None:
    """Record `inputs`, `published` or `history` of a run."""
    for name, fact in facts.items():
        _NOTES[name].run(connection, [(fact, run_id)])


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
    was paid (see `payments`)."""
    paid = payments.count(connection, run_id, now_s)
    _END.run(connection, [(state, *paid, exit_code, iso(now_s), run_id)])
    if totals is not None:
        _COUNT.run(connection, [(*_figures(totals), run_id)])


def _figures(totals: Totals) -> tuple[Any, ...]:
    """In the order of `_FIGURES`."""
    failed = totals.count(*(status for status in Status if status not in _NOT_FAILED))
    counts = (totals.count(*_ANSWERED), failed, totals.count(Status.UNSENDABLE))
    return (*counts, totals.input_tokens, totals.output_tokens, totals.cost, totals.paid_cost)


def load_runs(connection: Connection, manifest_id: int, limit: int) -> list[RunRecord]:
    """The last runs of a manifest, newest first."""
    return [_run(found) for found in _LAST_RUNS.records(connection, manifest_id, limit)]


def load_current(connection: Connection, manifest_id: int) -> RunRecord | None:
    """The run whose rows are the manifest's current ones."""
    found = _CURRENT.record(connection, manifest_id)
    return None if found is None else _run(found)


def _run(found: Any) -> RunRecord:
    values: dict[str, Any] = found._asdict()
    values["started_at"] = moment(found.started_at)
    values["finished_at"] = moment_or_none(found.finished_at)
    return RunRecord(**values)
