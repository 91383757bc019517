"""Killed at every point, in every mode of the server: nothing is executed twice, no answer is lost."""

from __future__ import annotations

from collections import Counter

import pytest

from runner.failpoints import POINTS
from tests.kills.figures import POINTS_EACH, play_all, some_scenarios
from tests.kills.modes import MODES
from tests.kills.scenario import Stage

SEEDS = (0, 1)
USUAL_MODES = tuple(mode for mode in MODES if mode != "clean")
"""A server that does nothing wrong is part of the long run, and of most tests beside these."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", USUAL_MODES)
def test_a_kill_at_any_point_costs_nothing_and_loses_nothing(
    stages_of_worker: list[Stage], mode: str, seed: int
) -> None:
    figures = play_all(some_scenarios(mode, seed), stages_of_worker)
    assert not figures.failures, "\n".join(figures.failures)
    assert [one.name for one in figures.missed] == []
    assert figures.scenarios == len(figures.met) == POINTS_EACH
    assert figures.kills >= POINTS_EACH
    assert figures.faults > 0


def test_the_normal_run_meets_every_point_and_has_enough_scenarios() -> None:
    taken = Counter(
        point
        for mode in USUAL_MODES
        for seed in SEEDS
        for scenario in some_scenarios(mode, seed)
        for point in scenario.points
    )
    assert taken.keys() == POINTS.keys()
    assert taken.total() == POINTS_EACH * len(USUAL_MODES) * len(SEEDS) == 60 * 8 * 2
