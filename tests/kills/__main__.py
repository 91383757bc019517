"""`python -m tests.kills --kills 24000`: the long run. The last line of its output are the figures."""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
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
    figures = Figures()

    def is_enough(_: Figures) -> bool:
        return asked.kills is not None and figures.kills >= asked.kills

    for seed in _seeds(asked):
        # New servers for each seed: a server that remembers a day of scenarios would be a slow one.
        with stages(folder / f"seed-{seed}", 1 if asked.only else asked.jobs * STAGES_A_JOB) as made:
            for stage in made:
                stage.weakness = asked.weakness
            play_all(_scenarios(asked, seed), made, figures=figures, is_enough=is_enough, heard=_tell)
        print(f"seed {seed}: {figures.line()}", flush=True)
        if not figures.failures:
            shutil.rmtree(folder / f"seed-{seed}")
        if is_enough(figures):
            break
    print(*(f"not met: {one.name}" for one in figures.missed), sep="\n", end="\n" * bool(figures.missed))
    if figures.failures:
        print(f"the projects of failed scenarios are in {folder}")
    print(figures.line())
    return 0 if figures.is_clean else 1


def _tell(played: Played) -> None:
    if played.judgement.problems:
        print(told(played), flush=True)


def _seeds(asked: argparse.Namespace) -> Iterable[int]:
    if asked.only:
        return (Scenario.named(asked.only).seed,)
    if asked.seeds is None and asked.kills is not None:
        return itertools.count(asked.first_seed)
    return range(asked.first_seed, asked.first_seed + (asked.seeds or 1))


def _scenarios(asked: argparse.Namespace, seed: int) -> Iterator[Scenario]:
    if asked.only:
        return iter([Scenario.named(asked.only)])
    return all_scenarios([seed], modes=[asked.mode] if asked.mode else [], begins=asked.point)


if __name__ == "__main__":
    main()
