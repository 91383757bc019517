"""A wrong document without its wrong parts, so that a check can go on to dataset and template.

The rule: a part is taken out whole where the schema still has something against it; what a manifest can't
be built without, and the dataset and template don't need, is stood in for.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from runner.manifest.complaints import check_document
from runner.manifest.findings import Findings, dotted
from runner.manifest.nodes import Entry, ListNode, MapNode, Node, Path, ScalarNode

_NEEDED = ("dataset", "prompt")


def without_wrong_parts(root: MapNode, wrong: Collection[str]) -> MapNode | None:
    """The document without the values at these dotted paths; None where dataset or prompt can't be kept."""
    rest = _pruned(root, (), wrong)
    if not isinstance(rest, MapNode):
        return None
    findings = Findings()
    check_document(_completed(rest), findings)
    sections = {path.split(".")[0] for path in findings.paths}
    if sections & {*_NEEDED, ""}:
        return None
    completed = _completed(rest.without(*sections))
    return completed if all(completed.get(section) for section in _NEEDED) else None


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

    def scalar(value: str | int) -> Entry:
        node = ScalarNode(value=value, position=root.position, folder=root.folder)
        return Entry(position=root.position, value=node)

    model = root.get("model")
    parts = dict(model.entries) if isinstance(model, MapNode) else {}
    parts = {"provider": scalar("local"), "name": scalar("none"), **parts}
    whole = MapNode(entries=parts, position=root.position, folder=root.folder, height=root.height)
    entries = {"version": scalar(1), **root.entries, "model": Entry(position=root.position, value=whole)}
    return replace(root, entries=entries)
