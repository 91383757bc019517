"""The last run of a manifest, to be brought to its end as it was planned, whatever was edited since.

Nothing is planned: no row is rendered, nothing is asked that this run did not want. What it asked comes from
the ledger (model, params, schema, the kept template and snapshot); where the table goes, what may fail and
which server is meant, the manifest says as it is now. So a schedule collects every few minutes at the price
of a look, and an edit in between waits for the next run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from runner.commands.asked import asked_by
from runner.commands.documents import document_of, params_of, repeats_of, schema_of
from runner.commands.raising import Asked
from runner.commands.workplace import Workplace
from runner.core.model import Manifest
from runner.core.states import ShardState, Submission
from runner.core.wire import decode_json
from runner.errors import LedgerError
from runner.ledger import Ledger, RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """A run that goes on. `workplace` asks as the run did; `ended` are its shards that are done."""

    run: RunRecord
    workplace: Workplace
    asked: Asked
    ended: tuple[Submission, ...]


def last_run(workplace: Workplace, ledger: Ledger, manifest_id: int) -> Going:
    """The run whose rows are the manifest's. Raises LedgerError where there is none, or what it was made of
    is gone."""
    run = ledger.current_run(manifest_id)
    if run is None:
        raise LedgerError(
            f"{workplace.manifest_path}: no run of it that could go on", next_step=_again(workplace)
        )
    asked = asked_by(run, ledger=ledger, place=workplace.place)
    if isinstance(asked, str):
        raise LedgerError(
            f"{workplace.manifest_path}: its last run can't go on: {asked}", next_step=_again(workplace)
        )
    return Going(
        run=run,
        workplace=replace(workplace, manifest=_as_asked(workplace.manifest, run)),
        asked=Asked(snapshot=str(asked.snapshot), rows=run.rows, prompt=asked.prompt),
        ended=tuple(
            ledger.submission(record.shard_id)
            for record in ledger.shards(manifest_id)
            if record.run_id == run.id and record.state is ShardState.DONE
        ),
    )


def _again(workplace: Workplace) -> str:
    return f"run {workplace.manifest.path}: it plans anew, and pays for nothing twice"


def _as_asked(manifest: Manifest, run: RunRecord) -> Manifest:
    """The manifest with what makes a request as it was in this run."""
    if run.document is None or run.document == document_of(manifest).decode():
        return manifest
    recorded: Mapping[str, Any] = decode_json(run.document)["manifest"]
    model = recorded["model"]
    return replace(
        manifest,
        prompt=replace(manifest.prompt, params=params_of(run)),
        model=replace(
            manifest.model,
            name=model["name"],
            endpoint=model.get("endpoint", "/v1/chat/completions"),
            parameters=model.get("parameters", {}),
        ),
        output=replace(manifest.output, schema=schema_of(run)),
        repeats=repeats_of(run),
    )
