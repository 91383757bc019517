"""The protocol pays one copy in every run there is, and each precaution is needed for that."""

from __future__ import annotations

import pytest

from runner.core.states import ShardState
from tests.model.expectations import AS_BUILT, UNFENCED, WEAKENED, Case


def by_name(cases: tuple[Case, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


@by_name(AS_BUILT)
def test_the_real_core_never_pays_twice_and_can_always_come_to_an_end(case: Case) -> None:
    found = case.explore()
    assert found.most_paid == case.paid, "\n".join(found.trace)
    assert found.stuck is None, "\n".join(found.stuck or ())
    assert found.worlds > 100


@by_name(UNFENCED)
def test_without_a_fence_only_a_long_settle_time_pays_once(case: Case) -> None:
    found = case.explore()
    assert found.most_paid == case.paid, "\n".join(found.trace)


@by_name(WEAKENED)
def test_each_precaution_is_needed(case: Case) -> None:
    assert case.paid > 1
    found = case.explore()
    assert found.most_paid == case.paid
    assert found.trace


def test_the_model_visits_every_state_that_a_wanted_and_acceptable_shard_can_be_in() -> None:
    """A model that never reaches a state proves nothing about it."""
    found = AS_BUILT[1].explore()
    assert found.states == set(ShardState) - {ShardState.REFUSED, ShardState.DISCARDED}
