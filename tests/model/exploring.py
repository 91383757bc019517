"""The search: every world that can be reached, the most copies paid, and whether an end stays in reach."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from runner.core.states import ShardState
from tests.model.protocol import Protocol
from tests.model.world import Dangers, World, beginning, moves


@dataclass(slots=True)
class Explored:
    """What a search found. `trace` leads to the world that paid most; `stuck` to one without a way out.
    `states` are those that the shard was in."""

    worlds: int = 0
    states: set[ShardState] = field(default_factory=set)
    most_paid: int = 0
    trace: list[str] = field(default_factory=list)
    stuck: list[str] | None = None


def explore(protocol: Protocol, dangers: Dangers, *, enough: int = 3) -> Explored:
    """Breadth first, so traces are shortest. Stops early once `enough` copies were paid."""
    start = beginning()
    reached_by: dict[World, tuple[World, str] | None] = {start: None}
    before: dict[World, list[World]] = {}
    found = Explored()
    waiting = deque([start])
    while waiting and found.most_paid < enough:
        world = waiting.popleft()
        if world.paid > found.most_paid:
            found.most_paid, found.trace = world.paid, _trace(reached_by, world)
        for what, after in moves(world, protocol, dangers):
            before.setdefault(after, []).append(world)
            if after not in reached_by:
                reached_by[after] = (world, what)
                waiting.append(after)
    found.worlds = len(reached_by)
    found.states = {world.ledger.state for world in reached_by}
    if not waiting:
        found.stuck = _stuck(reached_by, before)
    return found


def _stuck(
    reached_by: dict[World, tuple[World, str] | None], before: dict[World, list[World]]
) -> list[str] | None:
    """The way to a world from which no end can be reached; None if there is none."""
    waiting = [world for world in reached_by if world.is_over]
    ending = set(waiting)
    while waiting:
        for earlier in before.get(waiting.pop(), ()):
            if earlier not in ending:
                ending.add(earlier)
                waiting.append(earlier)
    lost = next((world for world in reached_by if world not in ending), None)
    return None if lost is None else _trace(reached_by, lost)


def _trace(reached_by: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    steps = []
    while (step := reached_by[world]) is not None:
        world, what = step
        steps.append(what)
    return steps[::-1]
