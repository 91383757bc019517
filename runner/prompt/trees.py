"""A parsed template file, and all its nodes, found in one walk.

Theory. What is asked of a file (which names, blocks, filters, references) is asked of all its nodes, some
thirty times. jinja2's own `find_all` goes down the tree again for each question, by generators within
generators; that was half of the time in which a template is checked. Here the nodes are listed once, in the
same order: a node before those in it, otherwise as they stand in the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from jinja2 import nodes

_Kind = TypeVar("_Kind", bound=nodes.Node)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """`template` as jinja2 parsed it, which nothing may change afterwards; `parts` are the nodes below it.

    `depth` is that of the deepest node; one of a template without any is 0.
    """

    template: nodes.Template
    parts: tuple[nodes.Node, ...]
    depth: int

    @property
    def body(self) -> list[nodes.Node]:
        """The statements at the top."""
        return self.template.body

    def find(self, kind: type[_Kind]) -> _Kind | None:
        """The first node of a kind."""
        return next(self.find_all(kind), None)

    def find_all(self, kind: type[_Kind] | tuple[type[_Kind], ...]) -> Iterator[_Kind]:
        """The nodes of a kind, as `nodes.Node.find_all` gives them."""
        return (node for node in self.parts if isinstance(node, kind))


def tree_of(template: nodes.Template) -> Tree:
    """List the nodes of a template. Goes down without calls: any depth will do."""
    parts: list[nodes.Node] = []
    deepest = 0
    waiting: list[tuple[nodes.Node, int]] = [(template, 0)]
    while waiting:
        node, depth = waiting.pop()
        parts.append(node)
        children = _children(node)
        if children:
            depth += 1
            deepest = max(deepest, depth)
            waiting += [(child, depth) for child in reversed(children)]
    return Tree(template=template, parts=tuple(parts[1:]), depth=deepest)


def _children(node: nodes.Node) -> list[nodes.Node]:
    """As `nodes.Node.iter_child_nodes`, without its choices of fields."""
    children: list[nodes.Node] = []
    for field in node.fields:
        value = getattr(node, field, None)
        if isinstance(value, nodes.Node):
            children.append(value)
        elif isinstance(value, list):
            children += [item for item in value if isinstance(item, nodes.Node)]
    return children
