"""What a run would take out of its table: told before it does, because nobody may have meant it.

Answers are never lost with a table: they belong to their requests, and a run's table is kept in the history.
"""

from __future__ import annotations

import shlex

from runner.commands.options import ManifestOptions, RunOptions, command_line, narrowing_words
from runner.commands.past import SHORT_ID
from runner.commands.tables import published_totals
from runner.core.planning import ANSWERS
from runner.dataset import Snapshot
from runner.errors import Mistake
from runner.ledger import Ledger, RunRecord, Staging

_RUNS_LOOKED_AT = 20


def replaced_warnings(
    ledger: Ledger | None,
    previous: RunRecord | None,
    options: RunOptions,
    where: str,
    snapshot: Snapshot,
    staging: Staging,
) -> list[Mistake]:
    """Of an empty dataset, named at `where`, and of rows that a narrowed run leaves out. `previous` is the
    last run, `staging` the plan that was compared with it."""
    last = None if ledger is None or previous is None else _last_table(ledger, previous.manifest_id)
    if ledger is None or last is None:
        return []
    if snapshot.rows == 0:
        return _emptied(last, options.manifest, where)
    return [] if options.narrowing.takes_all else _left_out(ledger, last, options, staging)


def _emptied(last: RunRecord, manifest: ManifestOptions, where: str) -> list[Mistake]:
    rows = published_totals(last).rows
    if not rows:
        return []
    what = f"the dataset has no rows, so the table will be empty; the one before has {rows:,} rows"
    return [Mistake(where=where, path="dataset", what=what, hint=_kept(last, manifest))]


def _left_out(ledger: Ledger, last: RunRecord, options: RunOptions, staging: Staging) -> list[Mistake]:
    rows = 0
    for fingerprints in staging.left_out():
        held = ledger.held(list(set(fingerprints)))
        rows += sum(one in held and held[one].status in ANSWERS for one in fingerprints)
    if not rows:
        return []
    counted = "1 row" if rows == 1 else f"{rows:,} rows"
    what = (
        f"{counted} with an answer will be pending in the table: that answers what was asked before, and "
        "what is asked now is left out"
    )
    where = shlex.join(narrowing_words(options.narrowing))
    return [Mistake(where=where, what=what, hint=_kept(last, options.manifest))]


def _last_table(ledger: Ledger, manifest_id: int) -> RunRecord | None:
    """The last run that wrote one."""
    return next((run for run in ledger.runs(manifest_id, _RUNS_LOOKED_AT) if run.published), None)


def _kept(last: RunRecord, manifest: ManifestOptions) -> str:
    """Where the table of before is to be found."""
    if last.history is None:
        return "its answers are kept in the ledger"
    return f"`{command_line('results', manifest)} --run {last.uid[:SHORT_ID]}` prints the table of before"
