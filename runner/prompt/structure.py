"""Is everything that a template says sent, and where? Messages, text outside of them, filters that exist.

The rule: text that would silently not reach the model is a mistake. With message blocks, only what stands
inside them is sent; in a template that extends another, only what stands inside blocks is rendered at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import get_close_matches

from jinja2 import Environment, nodes

from runner.errors import Mistake
from runner.prompt.codegen import LETTERS, is_message
from runner.prompt.files import Family
from runner.prompt.trees import Tree

_CAPTURING = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock)
"""Statements whose body is caught as text: a message in it would not be one."""


def has_messages(family: Family) -> bool:
    """Whether any rendered file of the family has a `system`, `user` or `assistant` block."""
    return any(_message_blocks(family.trees[name]) for name in _rendered(family))


def check_structure(family: Family, environment: Environment) -> list[Mistake]:
    """Every mistake in how the files are built, in the order of files and lines."""
    mistakes = [mistake for name in family.trees for mistake in _unknown_words(family, name, environment)]
    mistakes += _circles(family)
    if mistakes or family.root not in family.trees:
        return mistakes
    rendered = _rendered(family)
    senders = [name for name in rendered if _message_blocks(family.trees[name])]
    for name in rendered:
        is_child = _extends(family.trees[name])
        if name in senders or is_child or (senders and name == family.root):
            walk = _Walk(family, name, senders, _inner_blocks(family))
            walk.visit(family.trees[name].body, sends_text=not senders and not is_child)
            mistakes += walk.mistakes
    mistakes += _never_placed(family)
    is_meant = any(mistake.hint == "did you mean `user`?" for mistake in mistakes)
    has_user = any(block.name == "user" for name in senders for block in _blocks(family.trees[name]))
    if senders and not has_user and not is_meant:
        where = family.where(family.root, 1)
        mistakes.append(Mistake(where=where, what="no block `user`: the prompt has nothing to answer"))
    return mistakes


def _blocks(tree: Tree) -> list[nodes.Block]:
    return list(tree.find_all(nodes.Block))


def _message_blocks(tree: Tree) -> list[nodes.Block]:
    return [block for block in _blocks(tree) if is_message(block)]


def _extends(tree: Tree) -> bool:
    return any(isinstance(node, nodes.Extends) for node in tree.body)


def _rendered(family: Family) -> list[str]:
    """The root and what it extends or includes, directly or not; imports only give macros."""
    found: list[str] = []
    waiting = [family.root] if family.root in family.trees else []
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        found.append(name)
        for reference, existing in family.references(name):
            if isinstance(reference.node, nodes.Extends | nodes.Include):
                waiting += existing
    return found


def _parents(family: Family, name: str) -> list[str]:
    """The files that `name` extends, nearest first."""
    found: list[str] = []
    waiting = [name]
    while waiting:
        for reference, existing in family.references(waiting.pop(0)):
            if isinstance(reference.node, nodes.Extends):
                waiting += [other for other in existing if other not in found]
                found += [other for other in existing if other not in found]
    return found


def _circles(family: Family) -> Iterator[Mistake]:
    for name in family.trees:
        if name in _parents(family, name):
            line = next(node.lineno for node in family.trees[name].find_all(nodes.Extends))
            yield Mistake(
                where=family.where(name, line, "extends"),
                what=f"{name!r} extends itself, through its parents",
            )


def _never_placed(family: Family) -> Iterator[Mistake]:
    for name in _rendered(family):
        parents = _parents(family, name)
        if not parents:
            continue
        placed = {block.name for parent in parents for block in _blocks(family.trees[parent])}
        for block in family.trees[name].body:
            if isinstance(block, nodes.Block) and is_message(block) and block.name not in placed:
                yield Mistake(
                    where=family.where(name, block.lineno, block.name),
                    what=f"block `{block.name}` is never sent: the template it extends has no such block",
                    hint=f"put {{% block {block.name} %}}{{% endblock %}} into {parents[-1]}",
                )


def _inner_blocks(family: Family) -> set[str]:
    """Ordinary blocks that are part of a message: placed inside one, or called as `self.name()`."""
    inner: set[str] = set()
    for tree in family.trees.values():
        for message in _message_blocks(tree):
            inner.update(block.name for block in message.find_all(nodes.Block))
        for access in tree.find_all(nodes.Getattr):
            if isinstance(access.node, nodes.Name) and access.node.name == "self":
                inner.add(access.attr)
    while True:
        more = {
            block.name
            for tree in family.trees.values()
            for outer in _blocks(tree)
            if outer.name in inner
            for block in outer.find_all(nodes.Block)
        }
        if more <= inner:
            return inner
        inner |= more


class _Walk:
    """Goes through one file, knowing whether text at this place is sent."""

    def __init__(self, family: Family, name: str, senders: Collection[str], inner: set[str]) -> None:
        self.mistakes: list[Mistake] = []
        self._family = family
        self._name = name
        self._senders = senders
        self._inner = inner
        self._included = {id(reference.node): existing for reference, existing in family.references(name)}

    def visit(self, body: list[nodes.Node], *, sends_text: bool) -> None:
        for node in body:
            self._visit_one(node, sends_text=sends_text)

    def _visit_one(self, node: nodes.Node, *, sends_text: bool) -> None:
        if isinstance(node, nodes.Block):
            self._visit_block(node, sends_text=sends_text)
        elif isinstance(node, _CAPTURING):
            self._refuse_messages(node, "a macro, filter, call or set block")
            if isinstance(node, nodes.FilterBlock | nodes.CallBlock) and not sends_text:
                self._not_sent(node.lineno)
        elif isinstance(node, nodes.Output):
            if not sends_text:
                self._visit_output(node)
        elif isinstance(node, nodes.Include):
            if not sends_text and not self._includes_messages(node):
                self._not_sent(node.lineno)
        else:
            for part in ("body", "elif_", "else_"):
                self.visit(getattr(node, part, []), sends_text=sends_text)

    def _visit_block(self, block: nodes.Block, *, sends_text: bool) -> None:
        if not is_message(block):
            self._visit_ordinary(block, sends_text=sends_text)
            return
        self._refuse_messages(block, f"the message `{block.name}`")
        for include in block.find_all(nodes.Include):
            if self._includes_messages(include):
                what = "an included template with messages stands inside a message"
                self._add(include.lineno, what, word="include")

    def _visit_ordinary(self, block: nodes.Block, *, sends_text: bool) -> None:
        """A block with another name. What would be lost in it may be a message whose name is misspelt."""
        has_place = not self._senders or block.name in self._inner
        before = len(self.mistakes)
        self.visit(block.body, sends_text=sends_text or has_place)
        meant = did_you_mean(block.name, LETTERS)
        if len(self.mistakes) > before and meant and not any(map(is_message, block.find_all(nodes.Block))):
            del self.mistakes[before:]
            self._add(block.lineno, f"block `{block.name}` is not a message", meant, word=block.name)

    def _visit_output(self, output: nodes.Output) -> None:
        for part in output.nodes:
            if isinstance(part, nodes.TemplateData):
                if part.data.strip():
                    leading = len(part.data) - len(part.data.lstrip())
                    self._not_sent(part.lineno + part.data.count("\n", 0, leading))
                    return
            elif not _calls_block(part):
                self._not_sent(part.lineno)
                return

    def _includes_messages(self, include: nodes.Include) -> bool:
        return any(name in self._senders for name in self._included.get(id(include), ()))

    def _refuse_messages(self, outer: nodes.Node, what: str) -> None:
        for block in outer.find_all(nodes.Block):
            if is_message(block):
                self._add(block.lineno, f"block `{block.name}` stands inside {what}", word=block.name)

    def _not_sent(self, line: int) -> None:
        words = ", ".join(LETTERS)
        self._add(line, "text outside of the blocks is not sent", f"put it in a block ({words})")

    def _add(self, line: int, what: str, hint: str = "", word: str = "") -> None:
        where = self._family.where(self._name, line, word)
        self.mistakes.append(Mistake(where=where, what=what, hint=hint))


def _calls_block(node: nodes.Node) -> bool:
    """`super()` and `self.name()`: what they print is judged where it is written."""
    if not isinstance(node, nodes.Call):
        return False
    called = node.node.node if isinstance(node.node, nodes.Getattr) else node.node
    return isinstance(called, nodes.Name) and called.name in ("super", "self")


# ---------------------------------------------------------------- filters and tests that do not exist

_NOT_OFFERED = {
    "random": "a prompt must be the same each time; pick by the row's values",
}


def _unknown_words(family: Family, name: str, environment: Environment) -> Iterator[Mistake]:
    tree = family.trees[name]
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        known = environment.filters if isinstance(node, nodes.Filter) else environment.tests
        kind = "filter" if isinstance(node, nodes.Filter) else "test"
        if node.name not in known:
            hint = _NOT_OFFERED.get(node.name) or did_you_mean(node.name, known)
            yield Mistake(
                where=family.where(name, node.lineno, node.name),
                what=f"no {kind} named `{node.name}`",
                hint=hint,
            )
    for scope in tree.find_all(nodes.ScopedEvalContextModifier):
        yield Mistake(
            where=family.where(name, scope.lineno, "autoescape"),
            what="{% autoescape %} has no meaning in a prompt",
            hint="remove it; use |escape where HTML is wanted",
        )


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`did you mean `x`?` for the nearest known word, or empty."""
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""
