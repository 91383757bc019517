"""Datasets for the tests of `runner.dataset`: manifests, files, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.core.model import (
    BatchSettings,
    Budget,
    DatasetSettings,
    Manifest,
    ModelSettings,
    OutputSettings,
    Position,
    PromptSettings,
    ProviderSettings,
    RetrySettings,
    Tolerance,
)
from runner.dataset import Snapshot, read_rows, take_snapshot
from runner.errors import InputError

POSITIONS = {
    "dataset.path": Position(file="m.yaml", line=4, column=9),
    "dataset.query": Position(file="m.yaml", line=5, column=10),
    "dataset.key": Position(file="m.yaml", line=6, column=8),
}


def make_manifest(*paths: Path | str, query: str | None = None, key: tuple[str, ...] | str = ()) -> Manifest:
    """A manifest with these dataset settings; everything else as it comes."""
    return Manifest(
        path="m.yaml",
        name="m",
        description=None,
        dataset=DatasetSettings(
            paths=tuple(str(path) for path in paths), query=query, key=(key,) if isinstance(key, str) else key
        ),
        prompt=PromptSettings(template="/t.j2"),
        model=ModelSettings(provider=ProviderSettings(name="local"), name="m"),
        batch=BatchSettings(),
        output=OutputSettings(paths=()),
        retry=RetrySettings(),
        allow_failures=Tolerance(),
        budget=Budget(),
        positions=POSITIONS,
        canonical=b"{}",
    )


def take(
    *paths: Path | str,
    into: Path,
    query: str | None = None,
    key: tuple[str, ...] | str = (),
    parameters: Mapping[str, object] | None = None,
) -> Snapshot:
    """A snapshot in the folder `into`, under a name of its own."""
    scratch = into / "scratch"
    scratch.mkdir(exist_ok=True)
    target = into / f"snapshot-{len(list(into.glob('snapshot-*')))}.parquet"
    return take_snapshot(
        make_manifest(*paths, query=query, key=key), target, scratch=scratch, parameters=parameters
    )


def rows_of(snapshot: Snapshot) -> list[dict[str, Any]]:
    """All rows of a snapshot, without position and key."""
    return [row for batch in read_rows(snapshot.path, 0, snapshot.rows) for _, _, row in batch]


def keys_of(snapshot: Snapshot) -> list[str]:
    """All keys of a snapshot in order."""
    return [key for batch in read_rows(snapshot.path, 0, snapshot.rows) for _, key, _ in batch]


def types_of(snapshot: Snapshot) -> dict[str, str]:
    """Column names and DuckDB types."""
    return {column.name: column.type for column in snapshot.columns}


def write(path: Path, content: bytes | str) -> Path:
    """A file with this content."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def mistakes_of(*paths: Path | str, into: Path, **settings: Any) -> list[str]:
    """The texts of all mistakes that the dataset has; fails if it has none."""
    try:
        taken = take(*paths, into=into, **settings)
    except InputError as error:
        return [str(mistake) for mistake in error.mistakes]
    raise AssertionError(f"no mistake was found: {taken}")
