"""A project on disk for tests of the manifest room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from runner.core.model import Manifest
from runner.errors import InputError
from runner.manifest import load

GOOD = """\
version: 1
dataset:
  path: data/tickets.csv
prompt:
  template: triage.j2
model:
  provider: local
  name: some-model
"""


def make_project(folder: Path, text: str = GOOD, name: str = "m.yaml", **files: str) -> Path:
    """A manifest with its template; `files` are more files, `__` standing for a dot."""
    (folder / "triage.j2").write_text("{{ body }}")
    for file_name, content in files.items():
        (folder / file_name.replace("__", ".")).write_text(content)
    path = folder / name
    path.write_text(text)
    return path


def load_text(
    folder: Path,
    text: str = GOOD,
    *,
    environ: Mapping[str, str] | None = None,
    set_values: Sequence[str] = (),
    profile: str | None = None,
    **files: str,
) -> Manifest:
    """The manifest with this text."""
    path = make_project(folder, text, **files)
    return load(path, environ=environ or {}, set_values=set_values, profile=profile)


def complaint(
    folder: Path,
    text: str = GOOD,
    *,
    environ: Mapping[str, str] | None = None,
    set_values: Sequence[str] = (),
    profile: str | None = None,
    **files: str,
) -> str:
    """What load has to say about a wrong manifest; the folder's name is left out."""
    with pytest.raises(InputError) as caught:
        load_text(folder, text, environ=environ, set_values=set_values, profile=profile, **files)
    return str(caught.value).replace(f"{folder}/", "")
