"""What was edited since the last run, with the rows that each edit moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.commands.documents import changes, repeats_of
from runner.commands.workplace import Workplace
from runner.core.planning import Reason
from runner.core.reasons import Shifts, attributed
from runner.dataset import Snapshot, differing_rows
from runner.ledger import Comparison, RunRecord, Staging


def reasons_of(
    workplace: Workplace,
    previous: RunRecord | None,
    *,
    document: bytes,
    template_digest: str,
    times: Mapping[str, str],
    snapshot: Snapshot,
    staging: Staging,
    compared: Comparison,
    only_data: bool,
) -> tuple[Reason, ...]:
    """Every part that is another than in the last run, and how many rows that moved. `only_data`: what else a
    request rests on is known to be what it was, so that a row whose request changed has other data."""
    if previous is None:
        return ()
    reasons = changes(
        previous,
        document,
        snapshot.digest,
        template_digest,
        contents=snapshot.contents,
        since=previous.uid,
        times=times,
    )
    if not reasons:
        return ()
    repeats, before = workplace.manifest.repeats, repeats_of(previous)
    by_repeats = staging.by_repeats(repeats, before) if repeats != before else 0
    shifts = Shifts(
        changed=compared.changed,
        with_data=compared.changed
        if only_data
        else _with_data(workplace, previous, reasons, snapshot, staging, compared),
        came=compared.new - compared.unasked,
        gone=compared.removed,
        by_repeats=by_repeats,
    )
    return attributed(reasons, shifts)


def _with_data(
    workplace: Workplace,
    previous: RunRecord,
    reasons: Sequence[Reason],
    snapshot: Snapshot,
    staging: Staging,
    compared: Comparison,
) -> int | None:
    """Of the rows whose request changed, those whose own data changed; None where that can't be known."""
    if not compared.changed or not {reason.what for reason in reasons} & {"dataset", "query"}:
        return 0
    before = workplace.place.folder / previous.snapshot
    found = differing_rows(snapshot.path, str(before), scratch=Path(snapshot.path).parent)
    return None if found is None else staging.changed_among(found, workplace.manifest.repeats)
