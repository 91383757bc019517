"""`run results MANIFEST`: print the published table, or a part of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from runner.commands.options import ManifestOptions
from runner.commands.past import past_of
from runner.errors import InputError, Mistake
from runner.manifest import load
from runner.results import query


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
    manifest = load(options.path, set_values=options.set_values, profile=options.profile, environ=environ)
    for path in sorted(manifest.output.paths, key=lambda path: not path.endswith(".parquet")):
        if Path(path).exists():
            return iter(query(Path(path), sql=sql, where=where, format=format, limit=limit))
    raise InputError(
        [Mistake(where=manifest.where("output.path"), path="output.path", what="no results table yet")],
        next_step=f"run {options.path}",
    )
