"""`python -m benchmarks [NAME ...] [--rows N]`: measure, and print tables. See README.md beside this file."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.measure import WrongEndError
from benchmarks.memory import show_memory
from benchmarks.phases import Life
from benchmarks.sidebyside import show_side_by_side
from benchmarks.startup import show_startup
from benchmarks.tables import Table, machine
from benchmarks.transfers import show_transfers

LIFE = ("plan", "collect", "rerun", "ledger")
OTHERS: dict[str, Callable[[Path, int, Callable[[Table], None]], None]] = {
    "memory": show_memory,
    "transfers": show_transfers,
    "startup": show_startup,
}
NAMES = (*LIFE, "sidebyside", *OTHERS)


def main() -> int:
    """Everything, or what is named; 1 where something did not do its work."""
    asked = _arguments()
    names = frozenset(asked.names or NAMES)
    print(f"# Benchmarks, {asked.rows:,} rows\n\n{machine()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=asked.folder) as scratch:
        try:
            if names & set(LIFE):
                _in_a_folder(Path(scratch) / "life", lambda at: Life(at, asked.rows, names, _tell).run())
            if "sidebyside" in names:
                _in_a_folder(
                    Path(scratch) / "sidebyside",
                    lambda at: show_side_by_side(at, asked.rows, _tell, curator_python=asked.curator),
                )
            for name, show in OTHERS.items():
                if name in names:
                    _in_a_folder(Path(scratch) / name, partial(_show, show, asked.rows))
        except WrongEndError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all without one")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the dataset (1,000,000)")
    parser.add_argument("--folder", help="where the scratch files go: about 5 kB a row, 15 for memory")
    parser.add_argument("--curator", help="a Python that has bespokelabs-curator, for sidebyside")
    asked = parser.parse_args()
    unknown = sorted(set(asked.names) - set(NAMES))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if asked.rows < 1:
        parser.error("--rows must be 1 or more")
    return asked


def _in_a_folder(folder: Path, work: Callable[[Path], None]) -> None:
    """A folder that is gone afterwards: the next table needs the disk."""
    began_s = time.perf_counter()
    folder.mkdir()
    try:
        work(folder)
    finally:
        shutil.rmtree(folder)
    print(f"(this took {time.perf_counter() - began_s:.0f} s)\n", flush=True)


def _show(show: Callable[[Path, int, Callable[[Table], None]], None], rows: int, folder: Path) -> None:
    show(folder, rows, _tell)


def _tell(table: Table) -> None:
    print(table, flush=True)


if __name__ == "__main__":
    sys.exit(main())
