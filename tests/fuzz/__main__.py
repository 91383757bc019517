"""`python -m tests.fuzz [--examples N] [--seed N] [--jobs N] [--kind KIND] [--only NUMBER]`."""

from __future__ import annotations

import argparse
import json
import os
import pprint
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.driving import PROGRESS, Figures, drive, random_of
from tests.fuzz.kinds import KINDS, kind_of

PART_EXAMPLES = 5_000
_HOME = Path(__file__).parent.parent.parent


def run_part(name: str, numbers: range, seed: int) -> Figures:
    """Some examples in a child of their own; one that kills the child is a fault, and the rest go on."""
    whole = Figures(name)
    while numbers:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            part = [name, str(numbers.start), str(numbers.stop), str(seed), folder]
            child = subprocess.run(
                [sys.executable, "-m", "tests.fuzz", "--part", *part],
                cwd=_HOME,
                env={**os.environ, "TMPDIR": folder, "HOME": folder, "PYTHONDEVMODE": "0"},
                capture_output=True,
                check=False,
            )
            if child.returncode == 0:
                _add(whole, json.loads(child.stdout.split(b"\n")[-2]))
                return whole
            died_at = int((Path(folder) / PROGRESS).read_text())
        words = child.stderr.decode(errors="replace")[-500:]
        whole.faults.append(
            {"number": died_at, "what": f"the process ended with {child.returncode}: {words}"}
        )
        whole.examples += died_at + 1 - numbers.start
        numbers = range(died_at + 1, numbers.stop)
    return whole


def _add(whole: Figures, part: dict[str, object]) -> None:
    found = Figures(**part)  # type: ignore[arg-type]
    whole.examples += found.examples
    whole.faults += found.faults
    whole.endings.update(found.endings)
    whole.slowest_s = max(whole.slowest_s, found.slowest_s)
    whole.peak_mb = max(whole.peak_mb, found.peak_mb)


def _parts(names: Sequence[str], examples: int) -> Iterator[tuple[str, range]]:
    for name in names:
        for start in range(0, examples // len(names), PART_EXAMPLES):
            yield name, range(start, min(start + PART_EXAMPLES, examples // len(names)))


def run_all(names: Sequence[str], examples: int, *, seed: int, jobs: int) -> dict[str, Figures]:
    """Every part, so many at a time; figures by kind."""
    whole = {name: Figures(name) for name in names}
    with ThreadPoolExecutor(jobs) as pool:
        for part in pool.map(lambda part: run_part(part[0], part[1], seed), _parts(names, examples)):
            _add(whole[part.kind], vars(part))
    return whole


def figures_line(whole: dict[str, Figures]) -> str:
    """The last line of the command."""
    each = " ".join(f"{name}={found.examples}" for name, found in whole.items())
    faults = sum(len(found.faults) for found in whole.values())
    slowest_s = max(found.slowest_s for found in whole.values())
    peak_mb = max(found.peak_mb for found in whole.values())
    return f"{each} faults={faults} slowest_s={slowest_s:.2f} peak_mb={peak_mb:.0f}"


def _only(name: str, number: int, seed: int) -> None:
    """Make one example again, show it, and let its fault out."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        kind = kind_of(name, Path(folder))
        example = kind.make(random_of(seed, name, number))
        pprint.pprint(example)
        print(kind.judge(example))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--examples", type=int, default=20_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one example of --kind, shown")
    parser.add_argument("--part", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        name, start, stop, seed, place = asked.part
        numbers = range(int(start), int(stop))
        folder = Path(place)
        print(drive(name, kind_of(name, folder), numbers, seed=int(seed), folder=folder).as_json())
        return 0
    if asked.only is not None:
        _only(asked.kind or next(iter(KINDS)), asked.only, asked.seed)
        return 0
    names = [asked.kind] if asked.kind else list(KINDS)
    whole = run_all(names, asked.examples, seed=asked.seed, jobs=asked.jobs)
    for name, found in whole.items():
        print(f"{name}: {dict(found.endings.most_common())}")
        for fault in found.faults:
            print(f"  fault of {name} {fault['number']} (seed {asked.seed}): {fault['what']}")
    print(figures_line(whole))
    return 1 if any(found.faults for found in whole.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
