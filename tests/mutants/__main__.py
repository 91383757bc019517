"""`python -m tests.mutants [--only NAME ...] [--jobs 2]`: exit code 1 unless every mutant is killed."""

from __future__ import annotations

import argparse
import sys
import time

from tests.mutants.catalogue import MUTANTS
from tests.mutants.killing import Result, Verdict, baseline, try_all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutants")
    parser.add_argument("--jobs", type=int, default=2, help="so many at once (default 2)")
    options = parser.parse_args()
    names = {mutant.name for mutant in MUTANTS}
    if unknown := set(options.only or ()) - names:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}; known: {', '.join(sorted(names))}")
    mutants = [mutant for mutant in MUTANTS if not options.only or mutant.name in options.only]
    started = time.monotonic()
    jobs = max(options.jobs, 1)
    if fault := baseline(mutants, jobs=jobs):
        print(fault)
        return 1
    results = try_all(mutants, jobs=jobs, tell=_tell)
    count = {verdict: sum(result.verdict is verdict for result in results) for verdict in Verdict}
    print(
        f"mutants: {len(results)}, killed: {count[Verdict.KILLED]}, survived: {count[Verdict.SURVIVED]}, "
        f"broken: {count[Verdict.BROKEN]}, seconds: {time.monotonic() - started:.0f}"
    )
    return 0 if count[Verdict.KILLED] == len(results) else 1


def _tell(result: Result) -> None:
    print(f"{result.verdict:8}  {result.mutant.name}: {result.text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
