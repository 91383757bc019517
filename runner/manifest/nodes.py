"""YAML values that know where they were written: the form a manifest has until it is resolved.

Nodes are frozen; layers and interpolation make new ones. Each value keeps its own place and the folder
of its file, because a relative path starts at the file in which it was written. Nothing here knows
which keys a manifest has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from runner.core.model import Position
from runner.manifest.findings import OptionPosition, dotted

Path: TypeAlias = tuple[str | int, ...]
"""Where a value stands in the document: keys and list indexes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A text that YAML is read from: how its name is shown, and the folder that its paths start at."""

    shown: str
    folder: str
    is_option: bool = False

    def at(self, line: int, column: int) -> Position:
        """The place as a `Position`; both numbers count from 1."""
        kind = OptionPosition if self.is_option else Position
        return kind(file=self.shown, line=line, column=column)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarNode:
    """Text, a number, true, false or null."""

    value: str | int | float | bool | None
    position: Position
    folder: str
    height: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListNode:
    """A list; `height` counts the levels below."""

    items: tuple[Node, ...]
    position: Position
    folder: str
    height: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A key of a mapping with its own place, and its value."""

    position: Position
    value: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class MapNode:
    """A mapping in the order of the file; `height` counts the levels below."""

    entries: Mapping[str, Entry]
    position: Position
    folder: str
    height: int = 1

    def get(self, key: str) -> Node | None:
        """The value of a key, or None where it isn't written."""
        entry = self.entries.get(key)
        return entry.value if entry else None

    def without(self, *keys: str) -> MapNode:
        """The same mapping with some keys left out."""
        kept = {key: entry for key, entry in self.entries.items() if key not in keys}
        return MapNode(entries=kept, position=self.position, folder=self.folder, height=self.height)


Node: TypeAlias = ScalarNode | ListNode | MapNode


def plain(node: Node) -> Any:
    """The value as dicts, lists and scalars."""
    if isinstance(node, MapNode):
        return {key: plain(entry.value) for key, entry in node.entries.items()}
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return node.value


def child(node: Node, part: str | int) -> Node | None:
    """One step down, or None where there is nothing."""
    if isinstance(node, MapNode):
        return node.get(str(part))
    if isinstance(node, ListNode) and isinstance(part, int) and 0 <= part < len(node.items):
        return node.items[part]
    return None


def find(node: Node, path: Path) -> Node | None:
    """The value at a path, or None where there is nothing."""
    here: Node | None = node
    for part in path:
        here = child(here, part) if here is not None else None
    return here


def walk(node: Node, path: Path = ()) -> Iterator[tuple[Path, Position, Node]]:
    """Every value below `node` with its path and place.

    A mapping or a list is placed at its key, because its own mark is that of its first entry.
    """
    if isinstance(node, MapNode):
        for key, entry in node.entries.items():
            is_scalar = isinstance(entry.value, ScalarNode)
            yield (*path, key), entry.value.position if is_scalar else entry.position, entry.value
            yield from walk(entry.value, (*path, key))
    elif isinstance(node, ListNode):
        for index, item in enumerate(node.items):
            yield (*path, index), item.position, item
            yield from walk(item, (*path, index))


def positions(root: MapNode) -> dict[str, Position]:
    """Where each dotted path was written."""
    return {dotted(path): position for path, position, _ in walk(root)}
