"""`run init`: a small project that works at once, without a key and without network.

Writes new files only: what is there already is never touched, and where one name is taken nothing is
written at all. The manifest's schema is written beside the manifest, so that editors find it offline and
the project moves as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from runner.commands.schema import schema
from runner.errors import InputError, Mistake

MANIFEST = "reviews.yaml"
SCHEMA = "manifest.schema.json"
_PLACES = {
    "reviews.yaml": MANIFEST,
    "reviews.j2": "templates/reviews.j2",
    "reviews.csv": "data/reviews.csv",
}
"""Name in the package, place in the new project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitResult:
    """The files that were written, in the order in which to read them."""

    created: tuple[str, ...]


def init(folder: Path) -> InitResult:
    """Write the starter project. Raises InputError where something is in the way; nothing is written then."""
    files = _files()
    clashes = _clashes(folder, list(files))
    if clashes:
        raise InputError(clashes, next_step="choose another folder: `run init FOLDER`")
    created: list[Path] = []
    try:
        for place, content in files.items():
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as new:
                created.append(path)
                new.write(content)
    except OSError as error:
        for path in created:
            with suppress(OSError):
                path.unlink()
        where = str(error.filename or folder)
        raise InputError([Mistake(where=where, what=f"can't be written: {error.strerror}")]) from error
    return InitResult(created=tuple(str(path) for path in created))


def _files() -> Mapping[str, bytes]:
    """Place to content. The schema is that of the installed version."""
    starter = resources.files("runner.commands") / "starter"
    files = {place: (starter / name).read_bytes() for name, place in _PLACES.items()}
    return files | {SCHEMA: schema().encode()}


def _clashes(folder: Path, places: list[str]) -> list[Mistake]:
    """Everything that is in the way, the folders' own names included."""
    if folder.exists() and not folder.is_dir():
        return [Mistake(where=str(folder), what="is a file, not a folder")]
    found = [
        Mistake(where=str(folder / place), what="exists already; nothing is overwritten")
        for place in places
        if (folder / place).exists() or (folder / place).is_symlink()
    ]
    parents = {(folder / place).parent for place in places}
    blocked = [path for path in sorted(parents) if path.exists() and not path.is_dir()]
    return found + [Mistake(where=str(path), what="is a file, but a folder is needed") for path in blocked]
