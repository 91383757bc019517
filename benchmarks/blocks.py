"""The bare parts, measured in a process of their own, and the program's rate as a share of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import measured, module
from benchmarks.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Seconds of each bare part for so many rows, one after another: on the wall, and on the cores."""

    rows: int
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]

    def only(self, *words: str) -> Blocks:
        """Those whose names begin with one of these words."""
        chosen = [what for what in self.seconds if what.split()[0].strip(",") in words]
        return Blocks(
            rows=self.rows,
            seconds={what: self.seconds[what] for what in chosen},
            cpu_seconds={what: self.cpu_seconds[what] for what in chosen},
        )

    def shares(self, rows: int, wall_s: float, cpu_s: float) -> tuple[float, float]:
        """What part of the rate of all these a program reaches: by the clock, and by the seconds of the
        cores, which waiting for another program's work does not change."""
        times = rows / self.rows
        cpu_s = max(cpu_s, 0.01)  # it is counted in ticks
        return sum(self.seconds.values()) * times / wall_s, sum(self.cpu_seconds.values()) * times / cpu_s

    def show(self, table: Table) -> None:
        """One row for each part."""
        for what, seconds in self.seconds.items():
            table.add(f"bare: {what}", seconds, self.rows / seconds, self.cpu_seconds[what])


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
        rows=found[0].rows,
        seconds={what: min(one.seconds[what] for one in found) for what in whats},
        cpu_seconds={what: min(one.cpu_seconds[what] for one in found) for what in whats},
    )


def _blocks(words: Sequence[str], folder: Path, core: int | None) -> Blocks:
    folder.mkdir(exist_ok=True)
    told = [event.values for event in measured(module("limits", *words), cwd=folder, core=core).events]
    for left in folder.iterdir():
        left.unlink()
    return Blocks(
        rows=told[0]["rows"],
        seconds={one["what"]: one["seconds"] for one in told},
        cpu_seconds={one["what"]: one["cpu_seconds"] for one in told},
    )
