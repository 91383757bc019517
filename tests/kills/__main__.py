"""`python -m tests.kills --kills 24000`: the long run. The last line of its output are the figures."""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

from tests.kills.figures import Figures, all_scenarios, play_all, told
from tests.kills.modes import MODES
from tests.kills.scenario import Played, Scenario, stages
from tests.kills.weaknesses import WEAKNESSES

STAGES_A_JOB = 2
"""A scenario waits as long as it works, so two share a core."""


def main() -> None:
    """Play until there were so many kills, or so many seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, help="stop after so many kills (default: one seed)")
    parser.add_argument("--seeds", type=int, help="stop after so many seeds of every point and mode")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="cores to keep busy")
    parser.add_argument("--only", metavar="POINT/MODE/SEED", help="play this one and tell what happened")
    parser.add_argument("--mode", choices=sorted(MODES), help="only this mode of the server")
    parser.add_argument("--point", default="", help="only points that begin so")
    parser.add_argument("--weakness", choices=sorted(WEAKNESSES), default="", help="a worse program")
    parser.add_argument("--folder", type=Path, help="where to work; a failed scenario's project stays there")
    sys.exit(carry_out(parser.parse_args()))


def carry_out(asked: argparse.Namespace) -> int:
    """0 where every figure that must be nothing is nothing."""
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    seeds = itertools.count(asked.first_seed)
    if asked.seeds is not None or asked.kills is None:
        seeds = iter(range(asked.first_seed, asked.first_seed + (asked.seeds or 1)))  # type: ignore[assignment]
    modes = [asked.mode] if asked.mode else []
    scenarios = all_scenarios(seeds, modes=modes, begins=asked.point)
    if asked.only:
        scenarios = iter([Scenario.named(asked.only)])

    def is_enough(figures: Figures) -> bool:
        return asked.kills is not None and figures.kills >= asked.kills

    def heard(played: Played) -> None:
        if played.judgement.problems:
            print(told(played), flush=True)
        elif asked.only:
            print(f"{played.scenario.name}: exit codes {played.codes}, {played.faults} faults acted")

    count = 1 if asked.only else asked.jobs * STAGES_A_JOB
    with stages(folder, count) as made:
        for stage in made:
            stage.weakness = asked.weakness
        figures = play_all(scenarios, made, is_enough=is_enough, heard=heard)
    for one in figures.missed:
        print(f"not met: {one.name}")
    if figures.failures:
        print(f"the projects of failed scenarios are in {folder}")
    print(figures.line())
    return 0 if figures.is_clean else 1


if __name__ == "__main__":
    main()
