"""A fresh install has what the program imports: each library is declared, and each declared one is used."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CARRIED_BY = {"markupsafe": "jinja2"}
"""Imported by us, brought along for good by a library that we declare."""
NEEDED_UNSEEN = {"pytz", "tzdata"}
"""Never imported by us, but for time zones by DuckDB and, where the system has none, by zoneinfo."""
TOOLS = {
    "check-jsonschema",
    "import-linter",
    "mypy",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "types-jsonschema",
    "types-pyyaml",
}
"""Of the tests: run, not imported."""


def distribution(requirement: str) -> str:
    """The name in `name[extra]>=1`, normalised."""
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def imported(folder: str) -> Iterator[str]:
    """Top-level modules of others that the Python files below a folder import."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for module in (name.partition(".")[0] for name in names):
                if module not in sys.stdlib_module_names and module not in ("runner", "tests"):
                    yield module


def used(folder: str) -> set[str]:
    """The distributions behind those modules."""
    homes = packages_distributions()
    return {distribution(homes.get(module, [module])[0]) for module in imported(folder)}


RUNTIME = {distribution(one) for one in PROJECT["dependencies"]}
EXTRAS = {name: set(map(distribution, them)) for name, them in PROJECT["optional-dependencies"].items()}
TEST = EXTRAS.pop("test")
OPTIONAL = set().union(*EXTRAS.values())
"""What the program does without, and does more with."""


def test_what_the_program_imports_is_declared_and_no_more() -> None:
    assert used("runner") - set(CARRIED_BY) == (RUNTIME | OPTIONAL) - NEEDED_UNSEEN


def test_what_the_tests_import_is_declared_and_no_more() -> None:
    assert used("tests") - RUNTIME - OPTIONAL == TEST - TOOLS - OPTIONAL


def test_what_is_optional_is_tested() -> None:
    assert OPTIONAL <= TEST


def test_what_is_carried_is_carried() -> None:
    for carried, carrier in CARRIED_BY.items():
        assert carrier in RUNTIME
        assert carried in {distribution(one) for one in requires(carrier) or [] if "extra" not in one}
