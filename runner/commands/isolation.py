"""`--isolated`: a manifest that somebody else wrote.

Its template runs where it can reach nothing (`prompt.isolated`). What the manifest itself names is read and
written by this program, so here the paths are looked at: everything lies in its project, links followed,
or in a folder that was allowed. A run remembers that it was isolated, so that `run explain` and `run diff`,
which render its prompts again, do that behind the same walls. And no key goes to a server that a stranger
chose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from runner.core.model import Manifest, Provider
from runner.core.wire import decode_json, encode_json
from runner.dataset import fingerprint_of_inputs
from runner.errors import InputError, Mistake

_MOST_TOLD = 5


def marked_isolated(manifest: Manifest) -> Manifest:
    """The manifest as a run records it: another one than without, so a plan for one is none for the other."""
    document = {**decode_json(manifest.canonical), "isolated": True}
    return replace(manifest, canonical=encode_json(document, sort_keys=True))


def paths_outside(manifest: Manifest, allowed: Sequence[str]) -> list[Mistake]:
    """What the manifest reads or writes outside these folders."""
    folders = [Path(folder).resolve() for folder in allowed]
    found = [
        Mistake(
            where=manifest.where(place),
            path=place,
            what=f"{path} lies outside the project",
            hint=f"--allow-path {Path(path).resolve().parent} allows it",
        )
        for place, path in _paths(manifest)
        if not any(Path(path).resolve().is_relative_to(folder) for folder in folders)
    ]
    more = len(found) - _MOST_TOLD
    return found if more <= 1 else [*found[:_MOST_TOLD], replace(found[0], what=f"{more} more lie outside")]


def key_for_a_stranger(manifest: Manifest, provider: Provider, set_values: Sequence[str]) -> list[Mistake]:
    """A key that would go where the manifest says, unless who runs it said so too (`--set`)."""
    place = "model.provider.base_url"
    is_confirmed = any(value.partition("=")[0].strip().startswith("model.provider") for value in set_values)
    if manifest.model.provider.base_url is None or provider.api_key_env is None or is_confirmed:
        return []
    what = f"the key in {provider.api_key_env} would go to {provider.base_url}, which this manifest chose"
    hint = f"--set {place}={provider.base_url} says that it may"
    return [Mistake(where=manifest.where(place), path=place, what=what, hint=hint)]


def _paths(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Each path with its place in the manifest."""
    yield "prompt.template", manifest.prompt.template
    for number, path in enumerate(manifest.output.paths):
        yield f"output.path.{number}", path
    if manifest.output.schema_path is not None:
        yield "output.schema", manifest.output.schema_path
    try:
        for file in fingerprint_of_inputs(manifest).files:
            yield "dataset.path", file.path
    except InputError:
        for path in manifest.dataset.paths:  # who reads them says what is wrong
            yield "dataset.path", path
