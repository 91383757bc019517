"""From a snapshot and its lineage to the tables the manifest asks for.

    publish
      |- _wrong_targets         suffixes, twins, files of others: all mistakes at once
      |- write_lineage          lines to scratch, order checked
      |- join                   row counts checked, one streaming statement
      |- write_table, per draft every row checked inside the engine
      `- seal all, place all    durable first, then renamed

The one rule: whoever reads a target sees the whole old table or the whole new one. Knows nothing of the
ledger or of manifests; the lines come as they are to be written.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from runner.errors import InputError, Mistake
from runner.failpoints import failpoint
from runner.results.columns import KEY, ResultColumn
from runner.results.engine import open_engine
from runner.results.faults import in_our_words, program_fault
from runner.results.foreign import foreign_file
from runner.results.joining import join
from runner.results.lineage import Lines, write_lineage
from runner.results.placing import Draft, draft_name, drafting, scratch_folder
from runner.results.replacing import what_keeps
from runner.results.sqlite_table import most_columns
from runner.results.telling import told_plainly
from runner.results.writing import SUFFIXES, write_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What now stands on disk: `digests` are SHA-256 in hex, in the order of `paths`."""

    paths: tuple[Path, ...]
    rows: int
    digests: tuple[str, ...]


def publish(
    snapshot: str,
    lineage: Iterable[Lines],
    columns: Sequence[ResultColumn],
    targets: Sequence[Path],
    *,
    scratch: Path,
    csv_safe: bool = False,
) -> Published:
    """Join the snapshot's rows with their results and replace every target by the table.

    Shape:  the snapshot has `_position`, `_key` and the dataset's columns; lines come in position
            order, one for every position, made by a `LineForm` of these columns.
    Errors: InputError for targets that can't be written to; RunnerError (a fault of this program) where
            lines and rows don't agree; PublishError for disk, permission, memory. Nothing is
            replaced in any of these cases.
    Memory: flat, below 400 MB; disk: the lines once more under `scratch`, gone afterwards.
    """
    mistakes = _wrong_targets(targets)
    if mistakes:
        raise InputError(mistakes)
    if KEY not in [column.name for column in columns]:
        raise program_fault(f"the column {KEY} is missing")
    with ExitStack() as stack:
        with told_plainly(str(scratch)):
            folder = stack.enter_context(scratch_folder(scratch))
        drafts = []
        for target in targets:
            with told_plainly(str(target)):
                drafts.append(stack.enter_context(drafting(target)))
        failpoint("publish.drafted")
        written = write_lineage(lineage, folder)
        failpoint("publish.lineage_written")
        engine = stack.enter_context(open_engine(folder))
        with told_plainly(str(scratch)):
            joined = join(engine, snapshot, written, columns)
        failpoint("publish.joined")
        for target, draft in zip(targets, drafts, strict=True):
            with told_plainly(str(target)):
                write_table(engine, joined, _suffix(target), draft.path, csv_safe=csv_safe)
            failpoint("publish.table_written")
        return _place(targets, drafts, rows=joined.rows)


def _place(targets: Sequence[Path], drafts: Sequence[Draft], *, rows: int) -> Published:
    digests = []
    for target, draft in zip(targets, drafts, strict=True):
        with told_plainly(str(target)):
            digests.append(draft.seal())
    failpoint("publish.sealed")
    # Again: the first look was before the work, which may have taken minutes.
    mistakes = _wrong_targets(targets)
    if mistakes:
        raise InputError(mistakes)
    for target, draft in zip(targets, drafts, strict=True):
        with told_plainly(str(target)):
            draft.place()
        failpoint("publish.placed")
    failpoint("publish.all_placed")
    return Published(paths=tuple(targets), rows=rows, digests=tuple(digests))


def check_targets(targets: Sequence[Path], places: Sequence[str], columns: int = 0) -> list[Mistake]:
    """Everything that keeps a target from being written to, before any work is done and paid for.

    `places` say where each target is named, `columns` how many the table has, where that is known. Nothing is
    left behind: a folder is tried with a file without a name.
    """
    wrong = {mistake.where: (mistake.what, mistake.hint) for mistake in _wrong_targets(targets)}
    mistakes = []
    for target, place in zip(targets, places, strict=True):
        real = Path(os.path.realpath(target))
        what, hint = wrong.get(str(target)) or _width_problem(target, columns) or ("", "")
        if not what:
            what, hint = _folder_problem(real)
        if not what:
            what, hint = what_keeps(real)
        if what:
            said = f"{target}: {what}"
            mistakes.append(Mistake(where=place, path="output.path", what=said, hint=hint))
    return mistakes


def _width_problem(target: Path, columns: int) -> tuple[str, str] | None:
    if _suffix(target) != ".db" or columns <= (most := most_columns()):
        return None
    what = f"a SQLite table holds at most {most:,} columns, and this one has {columns:,}"
    return what, "write another kind of table, or leave columns out in `dataset.query`"


def _folder_problem(target: Path) -> tuple[str, str]:
    """What keeps a file from being made in the target's folder, or in the one where that would be made."""
    try:
        folder = next(parent for parent in target.parents if os.path.lexists(parent))
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=folder), suppress(FileNotFoundError):
            os.lstat(folder / draft_name(target))  # a name may be too long
        return "", ""
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "", ""  # may pass until the table is written
        return in_our_words(error)


def _wrong_targets(targets: Sequence[Path]) -> list[Mistake]:
    mistakes = []
    seen: set[str] = set()
    for target in targets:
        what, hint = _problem(target, seen)
        if what:
            mistakes.append(Mistake(where=str(target), path="output.path", what=what, hint=hint))
    return mistakes


def _problem(target: Path, seen: set[str]) -> tuple[str, str]:
    real = os.path.realpath(target)
    if _suffix(target) not in SUFFIXES:
        return f"unknown kind of table {target.suffix!r}", f"use one of {', '.join(SUFFIXES)}"
    if real in seen:
        return "the same file twice", "name every file once"
    seen.add(real)
    if Path(real).exists() and not Path(real).is_file():
        return "this is not a file", "choose another name"
    try:
        foreign = foreign_file(Path(real), _suffix(target))
    except (OSError, ValueError) as error:
        return f"can't be looked into: {error}", "check the permissions"
    return (foreign, "choose another name, or move the file away") if foreign else ("", "")


def _suffix(target: Path) -> str:
    return target.suffix.lower()
