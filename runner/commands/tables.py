"""What a run notes of the tables it has written, and whether they still say what is so.

The note is enough to repeat a run's end without a look at its rows: the files as they were left, the counts,
and a mark of the answers, which another manifest of the project may have asked again since.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.commands.documents import document_of
from runner.commands.past import SHORT_ID
from runner.commands.totals import Totals
from runner.commands.workplace import Workplace
from runner.core.model import Status
from runner.core.wire import JsonError, decode_json, encode_json
from runner.errors import Mistake
from runner.ledger import Ledger, RunRecord

if TYPE_CHECKING:
    from runner.results import Published


def table_facts(
    workplace: Workplace,
    ledger: Ledger,
    published: Published,
    totals: Totals,
    *,
    manifest_id: int,
    is_cancelled: bool,
    is_all_raised: bool,
) -> str:
    """The note, as JSON. `raw` are the raw files that the answers stand in. `is_cancelled`: the run may have
    left what it would have asked again. `is_all_raised`: no answer that was cut is left that a larger limit
    may be tried on."""
    is_settled = (
        not is_cancelled
        and (is_all_raised or len(workplace.ladder) == 1 or not totals.by_status[Status.TRUNCATED])
        and totals.by_status[Status.PENDING] == 0
        and not any(ledger.repeatable(manifest_id, workplace.manifest.retry.attempts))
    )
    facts = {
        "settled": is_settled,
        "tables": [_stat(path) for path in published.paths],
        "raw": sorted(totals.raw_paths),
        "answers": ledger.answers_mark(manifest_id),
        "oldest_s": totals.oldest_s,
        "by_status": {status.value: count for status, count in totals.by_status.items()},
        "refresh_failed": totals.refresh_failed,
        "tokens": [totals.input_tokens, totals.output_tokens],
        "cost": totals.cost,
    }
    return encode_json(facts).decode()


def tables_of_others(workplace: Workplace, ledger: Ledger) -> list[Mistake]:
    """Output paths at which the table of another manifest of this project stands: as that one left it, or
    where it wrote last. One that is gone needs its table no more: it was renamed, mostly."""
    manifest, place = workplace.manifest, workplace.place
    own_id = ledger.find_manifest(manifest.path)
    own = [] if own_id is None else ledger.runs(own_id)
    others = {
        record.path: ledger.runs(record.id)
        for record in ledger.manifests()
        if record.id != own_id and _is_another(place.project / record.path, manifest.path)
    }
    return [
        Mistake(
            where=manifest.where(f"output.path.{number}"),
            path="output.path",
            what=f"{path} is the table of {other} (run {written.uid[:SHORT_ID]})",
            hint=f"choose another name, or delete that file if {other} does not write there any more",
        )
        for number, path in enumerate(manifest.output.paths)
        if Path(path).exists() and not any(has_written(run, Path(path)) for run in own)
        for other, runs in others.items()
        if (written := _writer(runs, Path(path))) is not None
    ]


def _is_another(path: Path, own: str) -> bool:
    return path.exists() and not path.samefile(own)


def _writer(runs: Sequence[RunRecord], path: Path) -> RunRecord | None:
    """Of a manifest's runs, newest first, the one whose table stands at a path."""
    published = [run for run in runs if run.published is not None]
    left = (run for run in published if has_written(run, path))
    last = (run for run in published[:1] if _has_written_at(run, path))
    return next(left, None) or next(last, None)


def _has_written_at(run: RunRecord, path: Path) -> bool:
    """Whether this is where the run wrote, whatever became of the file."""
    return os.path.realpath(path) in (os.path.realpath(at) for at, *_ in _fact(run, "tables") or ())


def published_totals(run: RunRecord) -> Totals:
    """The counts of the table that a run has published."""
    facts = decode_json(run.published or "")
    by_status = Counter({Status(word): count for word, count in facts["by_status"].items()})
    return Totals(
        by_status=by_status,
        input_tokens=facts["tokens"][0],
        output_tokens=facts["tokens"][1],
        cost=facts["cost"],
        rows=by_status.total(),
        refresh_failed=facts["refresh_failed"],
    )


def says_what_is_so(
    workplace: Workplace, ledger: Ledger, run: RunRecord | None, *, older_than_s: float | None = None
) -> bool:
    """Whether a run's tables are as it left them, of this very manifest, with the answers that are held
    now and none of them due again, nor older than `older_than_s`. Its dataset and its template are for
    others to compare."""
    return (
        run is not None
        and are_as_left(workplace, run, older_than_s=older_than_s)
        and have_their_answers(ledger, run)
    )


def have_their_answers(ledger: Ledger, run: RunRecord) -> bool:
    """Whether no answer came, was replaced or failed again since the tables were written. A walk over all."""
    return bool(_fact(run, "answers") == ledger.answers_mark(run.manifest_id))


def are_as_left(workplace: Workplace, run: RunRecord, *, older_than_s: float | None = None) -> bool:
    """The same without a walk over all answers: whether everything else is so."""
    if run.document is None or run.published is None or run.state != "finished":
        return False
    return (
        run.document == document_of(workplace.manifest).decode()
        and bool(_fact(run, "settled"))
        and _are_untouched(_fact(run, "tables"))
        and _are_young(workplace.manifest.refresh_older_than_s, _fact(run, "oldest_s"))
        and _are_young(older_than_s, _fact(run, "oldest_s"))
    )


def _are_young(older_than_s: float | None, oldest_s: float | None) -> bool:
    """Whether an age above which answers are asked again leaves all of them alone at this moment."""
    return older_than_s is None or oldest_s is None or oldest_s >= time.time() - older_than_s


def _are_untouched(tables: list[list[Any]] | None) -> bool:
    try:
        return tables is not None and all(_stat(Path(path))[1:] == rest for path, *rest in tables)
    except OSError:
        return False


def has_written(run: RunRecord, path: Path) -> bool:
    """Whether the file at this path is a table as this run left it, under whatever name."""
    try:
        now = _stat(path)[1:]
    except OSError:
        return False
    return run.published is not None and any(rest == now for _, *rest in _fact(run, "tables") or ())


def _stat(path: Path) -> list[str | int]:
    found = Path(path).stat()
    return [str(path), found.st_size, found.st_mtime_ns, found.st_ino]


def _fact(run: RunRecord, name: str) -> Any:
    """Something noted of a run's tables; None where an older version of the program noted less."""
    try:
        return decode_json(run.published or "").get(name)
    except JsonError:
        return None
