"""What the tests of schedules share: one server for the tests of a file, a folder for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.scheduled import Stage, Theatre, theatre


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    with theatre(tmp_path_factory.mktemp("theatre")) as opened:
        yield opened


@pytest.fixture
def stage(house: Theatre) -> Stage:
    return house.stage()
