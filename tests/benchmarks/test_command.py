"""`python -m benchmarks`: a few rows through every table that needs no other program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = 200


def benchmarks(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, with its scratch files in `folder`."""
    command = [sys.executable, "-m", "benchmarks", *words, "--folder", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


def cells(text: str, title: str) -> list[list[str]]:
    """The rows of the table under a title that begins so."""
    _, _, rest = text.partition(f"## {title}")
    assert rest, (title, text)
    lines = [line for line in rest.partition("\n## ")[0].split("\n") if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from /proc")
def test_a_life_is_measured_from_plan_to_table(tmp_path: Path) -> None:
    done = benchmarks(tmp_path, "plan", "collect", "--rows", str(ROWS))
    assert done.returncode == 0, done.stderr
    planned = cells(done.stdout, "Plan, render, record, split: 200 rows")
    assert [row[0] for row in planned][-2:] == ["the program, one core", "the program, both cores"]
    assert all(float(row[4]) > 0 for row in planned[-2:]), "a peak of memory"
    assert all(float(row[5]) > 0 for row in planned[-2:]), "a share of the bare parts"
    collected = cells(done.stdout, "Collect, reconcile, store, join, publish: 200 shuffled answers")
    assert {"join, publish Parquet", "join, publish CSV"} <= {row[0] for row in collected}
    assert list(tmp_path.glob("benchmarks-*")) == [], "nothing is left behind"


def test_a_name_that_is_none_is_told(tmp_path: Path) -> None:
    done = benchmarks(tmp_path, "plam")
    assert done.returncode == 2
    assert "unknown: plam; there are plan, collect," in done.stderr
