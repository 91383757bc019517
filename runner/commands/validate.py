"""`run validate MANIFEST`: manifest, template, dataset, keys and provider limits, without network.

Collects what each room finds and complains once. The dataset is read in full, because a null key or a
torn line at its end is found by nothing less; nothing is rendered but the first row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runner.commands.checking import lacking_warnings, mistakes_together
from runner.commands.notifying import notify_warnings
from runner.commands.options import ManifestOptions
from runner.commands.prompt_of import prompt_source
from runner.commands.times import as_parameters, usual_times
from runner.commands.workplace import Workplace, limit_warnings, survey_workplace
from runner.core.model import Cause, RunTimes
from runner.dataset import Snapshot, read_rows, take_snapshot
from runner.errors import InputError, Mistake
from runner.prompt import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateResult:
    """What was checked. `messages` is the number of messages of the first row's prompt."""

    manifest: str
    rows: int
    columns: tuple[tuple[str, str], ...]
    messages: int
    warnings: tuple[Mistake, ...]


def validate(options: ManifestOptions, *, environ: Mapping[str, str]) -> ValidateResult:
    """Check everything that can be checked here. Raises InputError with all mistakes.

    A wrong manifest is checked on with what is right in it: one correction, one more look, and done.
    """
    workplace, mistakes = survey_workplace(options, environ)
    if workplace is None:
        raise InputError(mistakes)
    with tempfile.TemporaryDirectory(prefix="validate-") as scratch:
        times = usual_times(workplace, None)
        snapshot = _snapshot(workplace, times, Path(scratch), mistakes)
        prompt = _prompt(workplace, times, snapshot, mistakes)
        mistakes += mistakes_together(workplace, snapshot, prompt)
        if mistakes or snapshot is None or prompt is None:
            raise InputError(mistakes)
        first = _first_prompt(workplace, snapshot, prompt)
        return ValidateResult(
            manifest=workplace.manifest.name,
            rows=snapshot.rows,
            columns=tuple((column.name, column.type) for column in snapshot.columns),
            messages=first,
            warnings=tuple(
                _warnings(workplace, snapshot, prompt) + notify_warnings(workplace.manifest, environ)
            ),
        )


def _snapshot(
    workplace: Workplace, times: RunTimes, scratch: Path, mistakes: list[Mistake]
) -> Snapshot | None:
    """The dataset; where only its keys are wrong, the dataset without keys, for its columns. None where the
    manifest names none that could be looked at."""
    manifest, values = workplace.manifest, as_parameters(times)
    if not manifest.dataset.paths:
        return None
    try:
        return take_snapshot(manifest, scratch / "snapshot.parquet", scratch=scratch, parameters=values)
    except InputError as error:
        mistakes += error.mistakes
    if not manifest.dataset.key:
        return None
    without_key = replace(manifest, dataset=replace(manifest.dataset, key=()))
    try:
        path = scratch / "without-key.parquet"
        return take_snapshot(without_key, path, scratch=scratch, parameters=values)
    except InputError:
        return None  # not the keys' fault: it is told already


def _prompt(
    workplace: Workplace, times: RunTimes, snapshot: Snapshot | None, mistakes: list[Mistake]
) -> Prompt | None:
    """Compiled even where the dataset is wrong: all mistakes in one go. None where the manifest names none
    that could be looked at."""
    if not workplace.manifest.prompt.template:
        return None
    try:
        source = prompt_source(workplace, times)
        names = [column.name for column in snapshot.columns] if snapshot is not None else None
        return source.compile(names)
    except InputError as error:
        mistakes += error.mistakes
        return None


def _first_prompt(workplace: Workplace, snapshot: Snapshot, prompt: Prompt) -> int:
    for batch in read_rows(snapshot.path, 0, 1):
        for _, key, row in batch:
            outcome = prompt.render(row)
            if isinstance(outcome, Cause):
                where = f"{workplace.manifest.prompt.template}: row 1, key {key!r}"
                raise InputError([Mistake(where=where, what=outcome.message)])
            return len(outcome)
    return 0


def _warnings(workplace: Workplace, snapshot: Snapshot, prompt: Prompt) -> list[Mistake]:
    manifest = workplace.manifest
    warnings = limit_warnings(manifest)
    warnings += prompt.warnings([column.name for column in snapshot.columns])
    warnings += lacking_warnings(manifest, snapshot, prompt)
    warnings += _moving_prompts(workplace, snapshot, prompt)
    used = {*prompt.variables(), *manifest.dataset.key}
    unused = [column.name for column in snapshot.columns if column.name not in used]
    if unused and not prompt.reads_whole_row():
        what = f"columns that the template does not use: {', '.join(unused)}"
        warnings.append(Mistake(where=manifest.prompt.template, what=what))
    if snapshot.rows == 0:
        warnings.append(
            Mistake(where=manifest.where("dataset.path"), path="dataset", what="the dataset has no rows")
        )
    return warnings


def _moving_prompts(workplace: Workplace, snapshot: Snapshot, prompt: Prompt) -> list[Mistake]:
    """A moment in a prompt makes it another one each time, and what is asked is what is paid."""
    read = prompt.times_read([column.name for column in snapshot.columns])
    if not read:
        return []
    each = "run" if "started_at" in read or workplace.manifest.schedule is None else "due time"
    what = f"reads {', '.join(f'run.{name}' for name in read)}: every {each} asks all rows again"
    hint = (
        "to ask new rows only, read the time in dataset.query (`WHERE updated_at > $previous_scheduled_at`)"
    )
    return [Mistake(where=workplace.manifest.prompt.template, what=what, hint=hint)]
