"""The servers for all scenarios of a test worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kills.scenario import Stage, stages

STAGES = 2


@pytest.fixture(scope="session")
def stages_of_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Stage]]:
    """Two, because a scenario waits as long as it works."""
    folder = tmp_path_factory.mktemp("kills")
    with stages(folder, STAGES) as made:
        yield made
