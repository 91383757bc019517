"""What takes long to import is imported by those who use it: looking and checking start at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from runner import dataset, ledger, provider, results

HEAVY = (
    "sqlalchemy.dialects.postgresql",
    "alembic",
    "duckdb",
    "httpx",
    "jinja2",
    "jsonschema",
    "sqlalchemy",
    "starlette",
    "tenacity",
    "yaml",
)


def imported_by(module: str) -> set[str]:
    """The heavy libraries that come with a module, in a fresh interpreter."""
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "libraries"),
    [
        ("runner.cli.app", set()),
        ("runner.commands.validate", {"duckdb", "jinja2", "jsonschema", "yaml"}),
        ("runner.commands.run", {"jinja2", "jsonschema", "sqlalchemy", "yaml"}),
        ("runner.commands.lineage_pool", {"sqlalchemy"}),
        ("runner.commands.carrying_out", {"duckdb", "jinja2", "jsonschema", "sqlalchemy", "yaml"}),
    ],
)
def test_a_command_comes_with_what_it_uses(module: str, libraries: set[str]) -> None:
    assert imported_by(module) == libraries


@pytest.mark.parametrize("room", [dataset, ledger, provider, results])
def test_every_name_of_a_room_is_there(room: object) -> None:
    names = room.__all__  # type: ignore[attr-defined]
    assert [name for name in names if getattr(room, name, None) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        room.Nothing  # type: ignore[attr-defined]  # noqa: B018


def test_a_loop_that_lives_for_months_has_its_whole_program_from_the_start() -> None:
    code = (
        "import runner.schedule.serving, sys; print(*(name for name in sys.modules if name[:7] == 'runner.'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    wanted = {"carrying_out", "committing", "going_on", "planning", "publishing", "engine", "lineage_pool"}
    assert {f"runner.commands.{name}" for name in wanted} <= loaded
    assert {"runner.provider.client", "runner.results.publishing", "runner.dataset.snapshot"} <= loaded
