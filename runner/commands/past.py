"""The past of one manifest: its ledger, opened to look, and a run of it chosen by a word.

Needs the manifest's path only, so what was asked can be told when the manifest can no longer be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from runner.errors import InputError, Mistake
from runner.ledger import Ledger, LedgerPlace, ManifestRecord, RunRecord, locate

LATEST, PREVIOUS = "latest", "previous"
SHORT_ID = 8
_RUNS_LOOKED_AT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A manifest that was run at least once. `path` is as the user gave it."""

    path: str
    place: LedgerPlace
    ledger: Ledger
    manifest: ManifestRecord

    def run(self, word: str) -> RunRecord:
        """The run that `word` names: `latest`, `previous`, or the beginning of a run's id.

        `latest` and `previous` are the last two that published a table. Raises InputError.
        """
        if word in (LATEST, PREVIOUS):
            return self._published(word)
        found = [run for run in self.ledger.find_runs(word.lower()) if run.manifest_id == self.manifest.id]
        if len(found) == 1:
            return found[0]
        if found:
            what = f"{len(found)} of its runs begin with {word!r}"
            hint = f"one of {', '.join(run.uid[: SHORT_ID * 2] for run in found[:5])}"
        else:
            what = f"it has no run {word!r}"
            hint = f"`run history {self.path}` lists them"
        raise InputError([Mistake(where=self.path, what=what, hint=hint)])

    def table_of(self, run: RunRecord) -> Path:
        """Where the run's table is kept. Raises InputError where it left none."""
        name = run.uid[:SHORT_ID]
        if run.history is None:
            what = f"run {name} left no table: it is {run.state}"
            raise InputError(
                [Mistake(where=self.path, what=what, hint=f"`run history {self.path}` lists the others")]
            )
        table = self.place.folder / run.history
        if not table.is_file():
            raise InputError([Mistake(where=self.path, what=f"the table of run {name} is no longer kept")])
        return table

    def _published(self, word: str) -> RunRecord:
        runs = [run for run in self.ledger.runs(self.manifest.id, _RUNS_LOOKED_AT) if run.history]
        place = (LATEST, PREVIOUS).index(word)
        if place < len(runs):
            return runs[place]
        what = f"it has no {word} run with a table"
        raise InputError(
            [Mistake(where=self.path, what=what, hint=f"`run history {self.path}` lists its runs")]
        )


@contextmanager
def past_of(path: str, *, environ: Mapping[str, str], cwd: str) -> Iterator[Past]:
    """Open it. Raises InputError where the manifest was never run, LedgerError."""
    absolute = Path(cwd) / path
    place = locate(str(absolute), environ)
    ledger = Ledger.open_reading(place)
    try:
        known = ledger.manifests() if ledger is not None else []
        manifest = next((one for one in known if one.path == place.relative(absolute)), None)
        if ledger is None or manifest is None:
            raise InputError([Mistake(where=path, what="never run")], next_step=f"run {path}")
        yield Past(path=path, place=place, ledger=ledger, manifest=manifest)
    finally:
        if ledger is not None:
            ledger.close()


def utc_text(moment: datetime | None) -> str | None:
    """`2026-11-24T01:12:03Z`; None stays None."""
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")
