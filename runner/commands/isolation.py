"""`--isolated`: a manifest that somebody else wrote.

Its template runs where it can reach nothing (`prompt.isolated`). What the manifest itself names is read and
written by this program, so here the paths are looked at: everything lies in its project, links followed,
or in a folder that was allowed. And no key goes to a server that a stranger chose. A run remembers that it
was isolated: what renders its prompts again (`run explain`, `run plan --diff`) does that behind the same
walls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from runner.core.model import Manifest, Provider
from runner.core.wire import decode_json, encode_json
from runner.dataset import fingerprint_of_inputs
from runner.errors import InputError, Mistake
from runner.ledger import LedgerPlace

_MOST_TOLD = 5


def marked_isolated(manifest: Manifest) -> Manifest:
    """The manifest as a run records it: another one than without, so a plan for one is none for the other."""
    document = {**decode_json(manifest.canonical), "isolated": True}
    return replace(manifest, canonical=encode_json(document, sort_keys=True))


def paths_outside(manifest: Manifest, place: LedgerPlace, allowed: Sequence[str]) -> list[Mistake]:
    """What the manifest reads or writes outside its project and the allowed folders; links are followed.

    The ledger's folder counts too, and whatever file a value of the manifest came from (`extends`).
    """
    project = place.project.resolve()
    folders = [project, *(Path(folder).resolve() for folder in allowed)]
    found = [
        Mistake(
            where=manifest.where(at),
            path=at,
            what=f"{path} lies outside the project",
            hint=f"--allow-path {Path(path).resolve().parent} allows it",
        )
        for at, path in _paths(manifest)
        if not any(Path(path).resolve().is_relative_to(folder) for folder in folders)
    ]
    inside = (place.folder, *(place.folder.iterdir() if place.folder.is_dir() else ()))
    found += [
        Mistake(where=str(one), what=f"leads out of the project, to {one.resolve()}")
        for one in inside
        if not one.resolve().is_relative_to(project)
    ]
    more = len(found) - _MOST_TOLD
    return found if more <= 1 else [*found[:_MOST_TOLD], replace(found[0], what=f"{more} more lie outside")]


def keys_for_a_stranger(manifest: Manifest, provider: Provider, set_values: Sequence[str]) -> list[Mistake]:
    """A key that would go where the manifest says, or another key than the server's own, unless who runs it
    said so too: the very value, or the provider as a whole, by `--set`."""
    settings = manifest.model.provider
    said = {value.partition("=")[0].strip() for value in set_values}
    if "model.provider" in said or provider.api_key_env is None:
        return []
    chosen = "base_url" if settings.base_url is not None else "api_key_env"
    if f"model.provider.{chosen}" in said or getattr(settings, chosen) is None:
        return []
    if chosen == "base_url":
        at = "model.provider.base_url"
        what = f"the key in {provider.api_key_env} would go to {provider.base_url}, which this manifest chose"
        hint = f"--set {at}={provider.base_url} says that it may"
    else:
        at = "model.provider.api_key_env"
        what = f"this manifest chose {settings.api_key_env} for the key that goes to {provider.base_url}"
        hint = f"--set {at}={settings.api_key_env} says that it may"
    return [Mistake(where=manifest.where(at), path=at, what=what, hint=hint)]


def _paths(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Each path with its place in the manifest, of which a wrong one may lack some."""
    if manifest.prompt.template:
        yield "prompt.template", manifest.prompt.template
    for number, path in enumerate(manifest.output.paths):
        yield f"output.path.{number}", path
    if manifest.output.schema_path is not None:
        yield "output.schema", manifest.output.schema_path
    for parent in sorted({position.file for position in manifest.positions.values()}):
        if Path(parent).is_file():
            yield "extends", str(Path(parent).absolute())
    if not manifest.dataset.paths:
        return
    try:
        for file in fingerprint_of_inputs(manifest).files:
            yield "dataset.path", file.path
    except InputError:
        for path in manifest.dataset.paths:  # who reads them says what is wrong
            yield "dataset.path", path
