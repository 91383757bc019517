"""`run history`: every run that was, and what had been edited before it. From the ledger alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from runner.commands.documents import changes, currency_of, prices_of
from runner.commands.inputs import contents_recorded
from runner.commands.past import utc_text
from runner.core.planning import cost_of
from runner.ledger import Ledger, LedgerPlace, ManifestRecord, RunRecord, locate


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """One run. Figures are None where it never came to its end; times are UTC text.

    `input_tokens`, `output_tokens` and `cost` are those of the answers in its table; `paid_*` those of every
    attempt that it collected, failed and superseded ones too.

    `changed` names what was another than in the run before it (dataset, query, key, template, params,
    model, schema, repeats, or `manifest` for any other part of it), and is None for the first run.
    """

    run: str
    manifest: str
    name: str
    state: str
    exit_code: int | None
    started_at: str
    finished_at: str | None
    duration_s: float | None
    rows: int
    requests_sent: int | None
    succeeded: int | None
    failed: int | None
    unsendable: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost: float | None
    paid_input_tokens: int | None
    paid_output_tokens: int | None
    paid_cost: float | None
    currency: str | None
    changed: tuple[str, ...] | None
    model: str
    version: str
    git_commit: str | None
    manifest_digest: str
    template_digest: str
    dataset_digest: str


def history(path: str | None, *, environ: Mapping[str, str], cwd: str, limit: int) -> tuple[PastRun, ...]:
    """The last runs of one manifest, or of all manifests of the project around `cwd`; newest first."""
    absolute = Path(cwd) / (path if path is not None else "manifest.yaml")
    place = locate(str(absolute), environ)
    ledger = Ledger.open_reading(place)
    if ledger is None:
        return ()
    try:
        wanted = place.relative(absolute) if path is not None else None
        return _of_ledger(ledger, place, wanted, limit)
    finally:
        ledger.close()


def _of_ledger(ledger: Ledger, place: LedgerPlace, wanted: str | None, limit: int) -> tuple[PastRun, ...]:
    found: list[tuple[int, PastRun]] = []
    for manifest in ledger.manifests():
        if wanted is not None and manifest.path != wanted:
            continue
        runs = ledger.runs(manifest.id, limit + 1)
        pairs = zip_longest(runs[:limit], runs[1 : limit + 1])
        found += [(run.id, _past_run(manifest, run, before)) for run, before in pairs if run is not None]
    found.sort(key=lambda pair: pair[0], reverse=True)
    return tuple(one for _, one in found[:limit])


def _past_run(manifest: ManifestRecord, run: RunRecord, before: RunRecord | None) -> PastRun:
    paid_cost = _paid_cost(run)
    took = run.finished_at - run.started_at if run.finished_at is not None else None
    return PastRun(
        run=run.uid,
        manifest=manifest.path,
        name=manifest.name,
        state=run.state,
        exit_code=run.exit_code,
        started_at=utc_text(run.started_at) or "",
        finished_at=utc_text(run.finished_at),
        duration_s=round(took.total_seconds(), 3) if took is not None else None,
        rows=run.rows,
        requests_sent=run.requests_sent,
        succeeded=run.succeeded,
        failed=run.failed,
        unsendable=run.unsendable,
        input_tokens=run.input_tokens,
        output_tokens=run.output_tokens,
        cost=run.cost,
        paid_input_tokens=run.paid_input_tokens,
        paid_output_tokens=run.paid_output_tokens,
        paid_cost=paid_cost,
        currency=currency_of(run) if run.cost is not None or paid_cost is not None else None,
        changed=what_changed(before, run),
        model=run.model,
        version=run.version,
        git_commit=run.git_commit,
        manifest_digest=run.manifest_digest,
        template_digest=run.template_digest,
        dataset_digest=run.dataset_digest,
    )


def _paid_cost(run: RunRecord) -> float | None:
    """As the run told it. One that came to no table told nothing, and may have paid all the same."""
    prices, paid = prices_of(run), (run.paid_input_tokens, run.paid_output_tokens)
    if run.paid_cost is not None or prices is None or None in paid:
        return run.paid_cost
    return cost_of(paid[0] or 0, paid[1] or 0, prices)


def what_changed(before: RunRecord | None, run: RunRecord) -> tuple[str, ...] | None:
    """The parts that one run had otherwise than another; None where there is no other."""
    if before is None:
        return None
    document = (run.document or "null").encode()
    reasons = changes(
        before, document, run.dataset_digest, run.template_digest, contents=contents_recorded(run.inputs)
    )
    parts = tuple(one.what for one in reasons)
    return parts or (("manifest",) if before.manifest_digest != run.manifest_digest else ())
