"""The manifest's JSON Schema, as shipped, and questions to it.

`schema.json` is the one list of keys: editors read it through `run schema` and the modeline, `complaints`
checks with it, and what it says about types and examples ends up in error texts.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from runner.core.wire import decode_json
from runner.manifest import nodes


def schema_text() -> str:
    """The JSON Schema of a manifest (draft 2020-12), as the file in the package."""
    return Path(__file__).with_name("schema.json").read_text(encoding="utf-8")


def schema() -> dict[str, Any]:
    """The JSON Schema of a manifest as a new dict, free to change."""
    document: dict[str, Any] = decode_json(schema_text())
    return document


@functools.cache
def shared_schema() -> dict[str, Any]:
    """The same, read once; not to be changed."""
    return schema()


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """A part of the schema with its `$ref` followed; keys beside the `$ref` win."""
    while "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        beside = {key: value for key, value in part.items() if key != "$ref"}
        part = {**shared_schema()["$defs"][name], **beside}
    return part


def branches(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a part, or the part itself."""
    part = resolved(part)
    return [resolved(each) for each in part["anyOf"]] if "anyOf" in part else [part]


def accepted_types(path: nodes.Path) -> set[str]:
    """JSON types that the schema takes at a path; empty where it takes anything or knows nothing."""
    parts = [shared_schema()]
    for step in path:
        below = (_below(branch, step) for part in parts for branch in branches(part))
        parts = [part for part in below if part is not None]
    types: set[str] = set()
    for part in parts:
        for branch in branches(part):
            named = branch.get("type", [])
            types.update([named] if isinstance(named, str) else named)
            if "const" in branch:
                types.add("integer")
    return types


def _below(part: dict[str, Any], step: str | int) -> dict[str, Any] | None:
    if isinstance(step, int):
        items = part.get("items")
        return items if isinstance(items, dict) else None
    inside = part.get("properties", {}).get(step)
    return inside if isinstance(inside, dict) else None


@functools.cache
def places_of_keys() -> dict[str, str]:
    """For each key of a section its dotted path (`template`: `prompt.template`)."""
    places: dict[str, str] = {}
    root = shared_schema()["properties"]
    for section in root:
        if section == "profiles":
            continue
        for key, part in resolved(root[section]).get("properties", {}).items():
            places.setdefault(key, f"{section}.{key}")
            for inner in resolved(part).get("properties", {}):
                places.setdefault(inner, f"{section}.{key}.{inner}")
    return places
