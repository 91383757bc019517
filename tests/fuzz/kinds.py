"""The four kinds by name."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.datasets import Datasets
from tests.fuzz.driving import Kind
from tests.fuzz.manifests import Manifests
from tests.fuzz.replies import Replies
from tests.fuzz.templates import Templates

KINDS: tuple[str, ...] = ("manifests", "datasets", "templates", "replies")


def kind_of(name: str, folder: Path) -> Kind:
    """A kind that works in this folder."""
    made: dict[str, type[Manifests | Datasets | Templates | Replies]] = {
        "manifests": Manifests,
        "datasets": Datasets,
        "templates": Templates,
        "replies": Replies,
    }
    return made[name](folder)
