"""A wrong document without its wrong parts, so that a check can go on to dataset and template.

The rule: a part is taken out whole where the schema still has something against it. What a manifest can't be
built without is stood in for: a model by another, a dataset or a template that is taken out by nothing, so
that each of the two is still looked at where the other is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from runner.core.model import DatasetSettings, Manifest, PromptSettings
from runner.manifest.building import build
from runner.manifest.complaints import check_document
from runner.manifest.findings import Findings, dotted
from runner.manifest.nodes import Entry, ListNode, MapNode, Node, Path, ScalarNode


def without_wrong_parts(root: MapNode, wrong: Collection[str]) -> MapNode | None:
    """The document without the values at these dotted paths; None where nothing can be kept."""
    rest = _pruned(root, (), wrong)
    if not isinstance(rest, MapNode):
        return None
    findings = Findings()
    check_document(_with_sections(_completed(rest)), findings)
    sections = {path.split(".")[0] for path in findings.paths}
    return None if "" in sections else _completed(rest.without(*sections))


def built_of_what_stands(root: MapNode, path: str, answer_schema: Mapping[str, Any] | None) -> Manifest:
    """The manifest of such a document: without a dataset its paths are none, without a template that is
    empty."""
    manifest = build(_with_sections(root), path, answer_schema)
    if "dataset" not in root.entries:
        manifest = replace(manifest, dataset=DatasetSettings(paths=()))
    if "prompt" not in root.entries:
        manifest = replace(manifest, prompt=PromptSettings(template=""))
    return manifest


def _pruned(node: Node, path: Path, wrong: Collection[str]) -> Node:
    if isinstance(node, MapNode):
        kept = {
            key: replace(entry, value=_pruned(entry.value, (*path, key), wrong))
            for key, entry in node.entries.items()
            if dotted((*path, key)) not in wrong
        }
        return replace(node, entries=kept)
    if isinstance(node, ListNode):
        places = [(*path, index) for index in range(len(node.items))]
        items = zip(places, node.items, strict=True)
        return replace(
            node,
            items=tuple(_pruned(item, place, wrong) for place, item in items if dotted(place) not in wrong),
        )
    return node


def _completed(root: MapNode) -> MapNode:
    """With a version and a model, where they are missing."""
    model = root.get("model")
    parts = dict(model.entries) if isinstance(model, MapNode) else {}
    parts = {"provider": _scalar(root, "local"), "name": _scalar(root, "none"), **parts}
    entries = {"version": _scalar(root, 1), **root.entries, "model": _section(root, parts)}
    return replace(root, entries=entries)


def _with_sections(root: MapNode) -> MapNode:
    """With something for a dataset and a template, where they are missing."""
    dataset = _section(root, {"path": _scalar(root, "none")})
    prompt = _section(root, {"template": _scalar(root, "none")})
    return replace(root, entries={"dataset": dataset, "prompt": prompt, **root.entries})


def _scalar(root: MapNode, value: str | int) -> Entry:
    return Entry(
        position=root.position, value=ScalarNode(value=value, position=root.position, folder=root.folder)
    )


def _section(root: MapNode, parts: dict[str, Entry]) -> Entry:
    whole = MapNode(entries=parts, position=root.position, folder=root.folder, height=root.height)
    return Entry(position=root.position, value=whole)
