"""`run diff`: two runs of one manifest against each other, from the tables that they left in the history."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from runner.commands.history import what_changed
from runner.commands.past import SHORT_ID, Past, past_of, utc_text
from runner.errors import InputError, Mistake
from runner.ledger import RunRecord
from runner.results import TableComparison, UnreadableTableError, compare_tables


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffResult:
    """`before` and `after` are the runs' ids, `changed` the parts of the manifest that differ."""

    manifest: str
    before: str
    after: str
    before_started_at: str
    after_started_at: str
    changed: tuple[str, ...]
    tables: TableComparison


def diff(
    path: str, before: str, after: str, *, environ: Mapping[str, str], cwd: str, limit: int
) -> DiffResult:
    """Compare two runs, each named by the beginning of its id, `latest` or `previous`.

    At most `limit` examples of each kind. Raises InputError where a run is not known or left no table.
    """
    with past_of(path, environ=environ, cwd=cwd) as past:
        runs = (past.run(before), past.run(after))
        tables = [past.table_of(run) for run in runs]
        scratch = past.place.folder / "scratch"
        try:
            found = compare_tables(
                tables[0],
                tables[1],
                limit=limit,
                scratch=scratch if os.access(scratch, os.W_OK) else None,
            )
        except UnreadableTableError as error:
            raise _unreadable(past, runs[tables.index(error.path)], error) from error
        return DiffResult(
            manifest=past.manifest.path,
            before=runs[0].uid,
            after=runs[1].uid,
            before_started_at=utc_text(runs[0].started_at) or "",
            after_started_at=utc_text(runs[1].started_at) or "",
            changed=what_changed(*runs) or (),
            tables=found,
        )


def _unreadable(past: Past, run: RunRecord, error: UnreadableTableError) -> InputError:
    what = f"the table of run {run.uid[:SHORT_ID]} can't be compared: {error.why} ({run.history})"
    hint = f"`run history {past.path}` lists the others; the answers are in the ledger still"
    return InputError([Mistake(where=past.path, what=what, hint=hint)])
