"""How long it takes until the program says anything: its help, and the check of the example."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import ROOT, measured, runner
from benchmarks.tables import Table

_TIMES = 7


def show_startup(folder: Path, _rows: int, tell: Callable[[Table], None]) -> None:
    """The fastest of several starts: what was slower was disturbed."""
    for part in ("manifests", "templates"):
        shutil.copytree(ROOT / part, folder / part)
    table = Table("Start-up", ("what", "wall s", "CPU s", "peak MB", "at most s"))
    for words, most in ((("--help",), "0.3"), (("validate", "manifests/quickstart.yaml"), "1")):
        runs = [measured(runner(*words), cwd=folder) for _ in range(_TIMES)]
        fastest = min(runs, key=lambda run: run.wall_s)
        table.add(
            f"run {' '.join(words)}", fastest.wall_s, min(run.cpu_s for run in runs), fastest.peak_mb, most
        )
    tell(table)
