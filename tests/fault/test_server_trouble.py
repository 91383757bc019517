"""Every kind of server trouble, in every phase where it can act, ends as the table says it must.

`trouble_table` is the table: kind, phase, profile, expected end. Each case is a whole run in this process
against a real server. After it the results table holds every row once with its own answer or its cause, and
the server's witness shows that nothing was executed twice and nothing lost.

Where profiles can't differ they take turns in the usual run. RUNNER_TROUBLE=all plays the whole table
(before a release; some minutes):

    RUNNER_TROUBLE=all pytest -n 2 tests/fault/test_server_trouble.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from fnmatch import fnmatchcase
from functools import cache, partial

import httpx
import pytest
from httpx._transports import default as transport

from runner.commands import tracks
from runner.core import states
from runner.localserver.faults import KINDS, Point
from runner.provider import client
from tests.fault.trouble_factories import PHASES, Case, World
from tests.fault.trouble_table import (
    far_behind_the_fence,
    in_flight_at_a_cancel,
    usual_table,
    whole_table,
)
from tests.localserver_process import running_server

pytestmark = pytest.mark.usefixtures("lent_duckdb")

TABLE = whole_table() if os.environ.get("RUNNER_TROUBLE") == "all" else usual_table()
AT_ONCE = 3
GROUP = 16
GROUPS = [TABLE[start : start + GROUP] for start in range(0, len(TABLE), GROUP)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Servers for all cases of a worker, and shorter waits between calls; what is called stays."""
    folder = tmp_path_factory.mktemp("trouble")
    with ExitStack() as stack:
        servers = [stack.enter_context(running_server(folder / f"server-{n}")) for n in range(AT_ONCE)]
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(tracks, "POLLS_PER_MINUTE", 60_000)
        patch.setattr(client, "Patience", partial(client.Patience, first_wait_s=0.02, max_wait_s=0.1))
        patch.setattr(transport, "create_ssl_context", cache(httpx.create_ssl_context))
        patch.setattr(states, "_backoff_s", lambda attempt: 0.05, raising=False)
        yield World(folder, servers)


def called(group: list[Case]) -> str:
    return f"{group[0].kind}-{group[0].phase}..{group[-1].kind}-{group[-1].phase}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", GROUPS, ids=called)
def test_trouble_comes_to_its_named_end(world: World, group: list[Case]) -> None:
    assert world.play(group) == len(group) > 0


def test_what_is_in_flight_at_a_cancel_is_waited_for(world: World) -> None:
    assert world.play(in_flight_at_a_cancel()) == 2


def test_a_listing_that_is_behind_the_fence_proves_nothing(world: World) -> None:
    assert world.play([far_behind_the_fence()]) == 1


# ---------------------------------------------------------------- the table itself


def test_the_table_has_every_kind() -> None:
    assert {case.kind for case in TABLE} == set(KINDS)


EXECUTING = (Point.START, Point.ANSWER, Point.RECORD)


@pytest.mark.parametrize("name", KINDS)
def test_the_table_has_a_kind_in_each_phase_it_is_meant_for(name: str) -> None:
    kind = KINDS[name]
    meant = {phase for phase, route in PHASES.items() if fnmatchcase(route, kind.route)} - {
        "fence",
        "execute",
    }
    if kind.point in EXECUTING:
        meant = {"execute"}
    assert meant - {case.phase for case in TABLE if case.kind == name} == set()


def test_every_phase_and_every_point_meets_both_profiles() -> None:
    phases = {(case.phase, case.profile) for case in TABLE if case.phase != "fence"}
    points = {(KINDS[case.kind].point, case.profile) for case in whole_table()}
    for profile in ("doubleword", "unknown"):
        assert {phase for phase, other in phases if other == profile} == set(PHASES) - {"fence"}
        assert {point for point, other in points if other == profile} == set(Point)
