"""What shows only when dataset, template and output meet: checked before anything is rendered.

Knows neither ledger nor server, so that `run validate` needs nothing of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.commands.prompt_of import prompt_source
from runner.commands.rendering import RenderSource
from runner.commands.workplace import Workplace
from runner.core.model import Manifest, RunTimes
from runner.dataset import Snapshot, keys_like_repeats, lacking_mistake
from runner.errors import InputError, Mistake
from runner.prompt import Prompt
from runner.results import check_columns, check_targets, lineage_columns

_LIKE_REPEATS_SHOWN = 3
_COLUMNS_SHOWN = 5


def render_source(workplace: Workplace, snapshot_path: str, times: RunTimes | None = None) -> RenderSource:
    """What the render workers need."""
    manifest = workplace.manifest
    return RenderSource(
        snapshot=snapshot_path,
        prompt=prompt_source(workplace, times),
        provider=workplace.provider,
        endpoint=manifest.model.endpoint,
        model=manifest.model.name,
        parameters=dict(manifest.model.parameters),
        schema=dict(manifest.output.schema) if manifest.output.schema is not None else None,
    )


def check_everything(
    workplace: Workplace, snapshot: Snapshot, prompt: Prompt, *, also: Sequence[Mistake]
) -> None:
    """Mistakes that show only when dataset, template and output meet, and those that are known already.
    Raises InputError with all of them."""
    mistakes = [*mistakes_together(workplace, snapshot, prompt), *also]
    if mistakes:
        raise InputError(mistakes)


def mistakes_together(
    workplace: Workplace, snapshot: Snapshot | None, prompt: Prompt | None
) -> list[Mistake]:
    """What dataset, template and output have against each other; None for what could not be read."""
    manifest = workplace.manifest
    mistakes: list[Mistake] = []
    width = 0
    names = None if snapshot is None else [column.name for column in snapshot.columns]
    if prompt is not None:
        mistakes += prompt.check(names)
    if prompt is not None and snapshot is not None:
        mistakes += _lacking(manifest, snapshot, prompt, is_fixed=True)
    if snapshot is not None and names is not None:
        embeddings = manifest.model.endpoint == "/v1/embeddings"
        columns = lineage_columns(manifest.output.schema, manifest.output.prefix, embeddings=embeddings)
        width = len(names) + len(columns)
        where = manifest.where("dataset.path")
        mistakes += [
            clash if isinstance(clash, Mistake) else Mistake(where=where, path="dataset", what=clash)
            for clash in check_columns(names, columns)
        ]
        if manifest.repeats > 1:
            mistakes += _like_repeats(workplace, snapshot)
    return mistakes + mistakes_of_targets(manifest, width)


def lacking_warnings(manifest: Manifest, snapshot: Snapshot, prompt: Prompt) -> list[Mistake]:
    """Columns that the template reads and no record of some files has: there they are NULL, which may be
    meant. So it may be where a template reads the row as a whole, whose NULLs can be seen."""
    warnings = _lacking(manifest, snapshot, prompt, is_fixed=False)
    if snapshot.lacking and prompt.reads_whole_row():
        named = prompt.variables()
        others = [one.column for one in snapshot.lacking if one.column not in named]
        listed = ", ".join(others[:_COLUMNS_SHOWN]) + (", ..." if len(others) > _COLUMNS_SHOWN else "")
        what = f"the template reads the whole row, and some files lack some columns (NULL there): {listed}"
        hint = "set dataset.query (SELECT * FROM dataset), where that is meant"
        where = manifest.where("dataset.path")
        warnings += [Mistake(where=where, path="dataset.path", what=what, hint=hint)] if others else []
    return warnings


def _lacking(manifest: Manifest, snapshot: Snapshot, prompt: Prompt, *, is_fixed: bool) -> list[Mistake]:
    named = prompt.variables() if snapshot.lacking else ()
    return [
        lacking_mistake(manifest, one, "the template")
        for one in snapshot.lacking
        if one.is_fixed is is_fixed and one.column in named
    ]


def mistakes_of_targets(manifest: Manifest, columns: int = 0) -> list[Mistake]:
    """Output paths where no table can be written; of so many columns, where they are known."""
    paths = manifest.output.paths
    places = [manifest.where(f"output.path.{index}") for index in range(len(paths))]
    return check_targets([Path(path) for path in paths], places, columns)


def _like_repeats(workplace: Workplace, snapshot: Snapshot) -> list[Mistake]:
    """The repeats of a row have names of their own; no other row may have one of them for its key."""
    manifest = workplace.manifest
    return [
        Mistake(
            where=manifest.where("repeats"),
            path="repeats",
            what=f"the key {key!r} is also the name of a repeat of {like!r}",
            hint="rename the key, or ask each row once",
        )
        for key, like in keys_like_repeats(snapshot.path, manifest.repeats, limit=_LIKE_REPEATS_SHOWN)
    ]
