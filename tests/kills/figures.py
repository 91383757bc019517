"""Many scenarios: which, by whom, and what they came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from queue import SimpleQueue

from runner.failpoints import POINTS
from tests.kills.modes import MODES
from tests.kills.routes import Route, route_to
from tests.kills.scenario import Played, Scenario, Stage, play

POINTS_EACH = 60
"""So many points of each pair of mode and seed in the normal run; the pairs take turns."""
TRIES = 3
"""A point that a scenario did not meet is tried again: where threads race, not every life comes by."""
POINTS_A_LIFE = 4
"""So many points are met in one life of a project, one after the other; with every third seed, one."""


def some_scenarios(mode: str, seed: int) -> list[Scenario]:
    """A turn of the points for one mode and seed. All pairs together take every point many times."""
    names = list(POINTS)
    start = (list(MODES).index(mode) * 2 + seed) * 37
    chosen = {names[(start + place) % len(names)] for place in range(POINTS_EACH)}
    return scenarios_of([name for name in names if name in chosen], mode, seed)


def scenarios_of(points: Sequence[str], mode: str, seed: int) -> list[Scenario]:
    """A scenario for each point, or for several that one life can meet, in the order in which it meets
    them: points on the way of every run, far from each other; points that need the same beginning."""
    if seed % 3 == 2:
        return [Scenario(points=(point,), mode=mode, seed=seed) for point in points]
    plain = [point for point in points if route_to(point) == Route()]
    lives = -(-len(plain) // POINTS_A_LIFE)
    groups = [tuple(plain[first::lives]) for first in range(lives)]
    others: dict[str, tuple[str, ...]] = {}
    for point in points:
        if point not in plain:
            key = point.partition(".")[0] if route_to(point).joins else point
            others[key] = (*others.get(key, ()), point)
    groups += others.values()
    return [Scenario(points=group, mode=mode, seed=seed) for group in groups]


def all_scenarios(seeds: Iterable[int], *, modes: Sequence[str] = (), begins: str = "") -> Iterator[Scenario]:
    """Every point in every mode, seed by seed; or only some."""
    points = [point for point in POINTS if point.startswith(begins)]
    for seed in seeds:
        for mode in modes or MODES:
            yield from scenarios_of(points, mode, seed)


@dataclass(slots=True)
class Figures:
    """Sums over scenarios, which are points times modes times seeds. `met` are points at which a process
    was killed, `missed` scenarios whose point did not come."""

    kills: int = 0
    scenarios: int = 0
    faults: int = 0
    duplicates: int = 0
    losses: int = 0
    extra_rows: int = 0
    tracebacks: int = 0
    seeds: set[int] = field(default_factory=set)
    met: set[str] = field(default_factory=set)
    missed: list[Scenario] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, played: Played) -> None:
        """One more."""
        scenario, judgement = played.scenario, played.judgement
        self.scenarios += len(played.met)
        self.kills += played.kills
        self.faults += played.faults
        self.duplicates += judgement.duplicates
        self.losses += judgement.losses
        self.extra_rows += judgement.extra_rows
        self.tracebacks += judgement.tracebacks
        self.seeds.add(scenario.seed)
        self.met.update(played.met)
        if judgement.problems:
            self.failures.append(told(played))

    @property
    def is_clean(self) -> bool:
        """Nothing that must not be."""
        return not self.failures

    def line(self) -> str:
        """The last line of the long run."""
        return (
            f"kills {self.kills}, seeds {len(self.seeds)}, scenarios {self.scenarios}, "
            f"faults {self.faults}, duplicates {self.duplicates}, losses {self.losses}, "
            f"extra rows {self.extra_rows}, tracebacks {self.tracebacks}, "
            f"points hit {len(self.met)} of {len(POINTS)}"
        )


def told(played: Played) -> str:
    """A scenario that went wrong, and the command that repeats it."""
    problems = "\n".join(f"  {problem}" for problem in played.judgement.problems)
    return (
        f"{played.scenario.name} (exit codes {played.codes})\n{problems}\n"
        f"  again: python -m tests.kills --only {played.scenario.name}"
    )


def play_all(
    scenarios: Iterable[Scenario],
    stages: Sequence[Stage],
    *,
    figures: Figures | None = None,
    is_enough: Callable[[Figures], bool] = lambda _: False,
    heard: Callable[[Played], None] = lambda _: None,
) -> Figures:
    """Each scenario on the next stage that is free. A point that was not met is tried again, alone.

    Adds to `figures` where there are some already, and gives them back.
    """
    figures = figures or Figures()
    free: SimpleQueue[Stage] = SimpleQueue()
    for stage in stages:
        free.put(stage)
    waiting = iter(scenarios)
    tries: Counter[Scenario] = Counter()

    def on_a_stage(scenario: Scenario) -> Played:
        stage = free.get()
        try:
            return play(scenario, stage)
        finally:
            free.put(stage)

    with ThreadPoolExecutor(len(stages)) as pool:
        playing = {pool.submit(on_a_stage, one) for one in islice(waiting, len(stages))}
        while playing:
            ended = next(as_completed(playing))
            playing.remove(ended)
            played = ended.result()
            figures.add(played)
            heard(played)
            again = [one for one in _alone(played) if tries[one] < TRIES]
            figures.missed += [one for one in _alone(played) if one not in again]
            tries.update(again)
            waiting = chain(again, waiting)
            if not is_enough(figures):
                playing |= {pool.submit(on_a_stage, one) for one in islice(waiting, 1)}
    return figures


def _alone(played: Played) -> list[Scenario]:
    """The points that a life did not meet, each in a life of its own."""
    left = [point for point in played.scenario.points if point not in played.met]
    return [replace(played.scenario, points=(point,)) for point in left]
