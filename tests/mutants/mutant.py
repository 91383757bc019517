"""What a mutant is, and how it is applied to a copy of the code."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
COPIED = ("runner", "tests", "pyproject.toml", "README.md", "manifests", "templates")


class DoesNotApplyError(Exception):
    """The text to be changed is not in the file, or is there more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change and the tests that must notice it. `path` is relative to `runner/`, `kills` to `tests/`."""

    name: str
    path: str
    old: str
    new: str
    kills: tuple[str, ...]

    def changed(self, text: str) -> str:
        """The file's text with the change. Raises DoesNotApplyError."""
        found = text.count(self.old)
        if found != 1 or self.old == self.new:
            raise DoesNotApplyError(f"{self.name}: its text is {found} times in runner/{self.path}")
        return text.replace(self.old, self.new)


def copy_code(folder: Path) -> None:
    """What the tests need, into an empty folder."""
    for name in COPIED:
        if (HOME / name).is_dir():
            shutil.copytree(HOME / name, folder / name, ignore=shutil.ignore_patterns(".runner"))
        else:
            shutil.copy2(HOME / name, folder / name)


@contextmanager
def applied(mutant: Mutant, copy: Path) -> Iterator[None]:
    """The change, in the copy, for the length of the block. Raises DoesNotApplyError."""
    file = copy / "runner" / mutant.path
    text = file.read_text(encoding="utf-8")
    file.write_text(mutant.changed(text), encoding="utf-8")
    _forget_bytecode(file)
    try:
        yield
    finally:
        file.write_text(text, encoding="utf-8")
        _forget_bytecode(file)


def _forget_bytecode(file: Path) -> None:
    """Two versions of one second and one size would be taken for the same."""
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()
