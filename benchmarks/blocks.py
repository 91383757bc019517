"""The bare parts, measured in a process of their own, and the program's rate as a share of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import measured, module
from benchmarks.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Seconds of each bare part for so many rows, on one core, one after another."""

    rows: int
    seconds: Mapping[str, float]

    @property
    def rows_per_s(self) -> float:
        """The rate of all of them, one after another."""
        return self.rows / sum(self.seconds.values())

    def rate(self, *whats: str) -> float:
        """The rate of these, by the first word of their names."""
        chosen = [value for what, value in self.seconds.items() if what.split()[0].strip(",") in whats]
        return self.rows / sum(chosen)

    def show(self, table: Table) -> None:
        """One row for each part."""
        for what, seconds in self.seconds.items():
            table.add(f"bare: {what}", seconds, self.rows / seconds)


def bare_plan(dataset: Path, folder: Path, *, core: int | None) -> Blocks:
    """Read, render, encode, hash, insert, write."""
    return _blocks(["plan", str(dataset), str(folder)], folder, core)


def bare_answers(outputs: Path, dataset: Path, folder: Path, *, core: int | None) -> Blocks:
    """Copy, decode, update, join and write."""
    return _blocks(["answers", str(outputs), str(dataset), str(folder)], folder, core)


def best(found: Sequence[Blocks]) -> Blocks:
    """Of several measurements the fastest of each part: what was slower was disturbed."""
    whats = found[0].seconds
    return Blocks(
        rows=found[0].rows, seconds={what: min(one.seconds[what] for one in found) for what in whats}
    )


def _blocks(words: Sequence[str], folder: Path, core: int | None) -> Blocks:
    folder.mkdir(exist_ok=True)
    told = [event.values for event in measured(module("limits", *words), cwd=folder, core=core).events]
    for left in folder.iterdir():
        left.unlink()
    return Blocks(rows=told[0]["rows"], seconds={one["what"]: one["seconds"] for one in told})
