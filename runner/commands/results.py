"""`run results MANIFEST`: print the published table, or a part of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

from runner.commands.options import ManifestOptions, command_line
from runner.commands.past import LATEST, SHORT_ID, past_of, utc_text
from runner.commands.tables import has_written
from runner.errors import InputError, LedgerError, Mistake
from runner.ledger import Ledger, ManifestRecord, RunRecord, locate
from runner.manifest import load
from runner.results import query

_RUNS_LOOKED_AT = 5


def results(
    options: ManifestOptions,
    *,
    environ: Mapping[str, str],
    format: str,  # noqa: A002 - the option's name
    where: str | None,
    sql: str | None,
    limit: int | None,
    run: str | None = None,
) -> Iterator[str]:
    """Chunks of text for stdout, from the first of the manifest's output paths that exists; a Parquet file
    before others, because it alone holds every value with its type, as it came. `run`: the table of an
    earlier run, from the history; see `Past.run`.

    Raises InputError where nothing was published yet, or where the SQL is wrong.
    """
    if run is not None:
        with past_of(options.path, environ=environ, cwd=str(Path.cwd())) as past:
            table = past.table_of(past.run(run))
        return iter(query(table, sql=sql, where=where, format=format, limit=limit))
    return iter(query(_table(options, environ), sql=sql, where=where, format=format, limit=limit))


def _table(options: ManifestOptions, environ: Mapping[str, str]) -> Path:
    manifest = load(options.path, set_values=options.set_values, profile=options.profile, environ=environ)
    for path in sorted(manifest.output.paths, key=lambda path: not path.endswith(".parquet")):
        if Path(path).exists():
            return Path(path)
    raise InputError(
        [Mistake(where=manifest.where("output.path"), path="output.path", what="no results table yet")],
        next_step=f"run {options.path}",
    )


def written_by_another(options: ManifestOptions, *, environ: Mapping[str, str]) -> str | None:
    """What to say where another manifest of the project wrote the table last, as far as a ledger tells; one
    that can't be read is no matter here. Raises InputError as `results`."""
    table, place = _table(options, environ), locate(options.path, environ)
    own = place.relative(Path(options.path).absolute())
    with suppress(LedgerError):
        ledger = Ledger.open_reading(place)
        if ledger is None:
            return None
        with closing(ledger):
            manifest, run = next(_writers(ledger, own, table), (None, None))
        if manifest is None or run is None or manifest.path == own:
            return None
        mine = f"`{command_line('results', options)} --run {LATEST}`"
        by = f"{manifest.path} (run {run.uid[:SHORT_ID]}, {utc_text(run.started_at)})"
        return f"this table was last written by {by}; {mine} prints that of this manifest"
    return None


def _writers(ledger: Ledger, own: str, table: Path) -> Iterator[tuple[ManifestRecord, RunRecord]]:
    """The manifests whose last runs left the table as it is, this one before others."""
    for manifest in sorted(ledger.manifests(), key=lambda one: one.path != own):
        yield from (
            (manifest, run) for run in ledger.runs(manifest.id, _RUNS_LOOKED_AT) if has_written(run, table)
        )
