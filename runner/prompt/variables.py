"""Which names a template reads, checked against columns and params before a row is rendered.

The rule: no false alarms. A name counts as wrong only if it can come from nowhere: not a column, not a
param, not set anywhere in the files that share a context with it. A name that is tested with `is defined`
or given a `default` may be missing. Where a name is used under a condition it still counts: a column that
does not exist does not exist for any row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import meta, nodes

from runner.errors import Mistake
from runner.prompt.files import Family
from runner.prompt.structure import did_you_mean
from runner.prompt.trees import Tree

RESERVED = ("params", "row")
SELF = "self"
"""Jinja2's name for the template itself, by which blocks are called; it hides a column of this name."""
RUN = "run"
"""The moments of the run; a column of this name hides it."""
RUN_FIELDS = ("previous_scheduled_at", "scheduled_at", "started_at")
_MAPPING_METHODS = frozenset(name for name in dir(dict) if not name.startswith("_"))
_GUARDS = ("defined", "undefined")
_DEFAULTS = ("default", "d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One reading of a name (`subject`) or of a field of `params`, `row` or `run` (`tone` of `params`)."""

    name: str
    field: str | None
    file: str
    line: int
    sees_row: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """All that a family reads. `whole` names what is also read in ways that can't be followed."""

    family: Family
    reads: tuple[Use, ...]
    guarded: frozenset[tuple[str, str | None]]
    whole: frozenset[str]
    local: frozenset[str]

    def where(self, use: Use) -> str:
        """The place of what is read."""
        return self.family.where(use.file, use.line, use.field or use.name)


def find_uses(family: Family) -> Uses:
    """Read the variables out of the files. The order is the order of the files, then of the lines."""
    seeing = _files_that_see_the_row(family)
    reads: list[Use] = []
    guarded: set[tuple[str, str | None]] = set()
    whole: set[str] = set()
    stored = {name: _stored(tree) for name, tree in family.trees.items()}
    for name, tree in family.trees.items():
        undeclared = _undeclared(tree.template)
        elsewhere = {word for other in seeing if other != name for word in stored[other]}
        given = (elsewhere if name in seeing else set()) | _stored_at_top(tree)
        guarded |= _guarded(tree)
        uses, wholes = _uses_in(family, name, undeclared - given, sees_row=name in seeing)
        reads += uses
        whole |= wholes
    local = frozenset(word for words in stored.values() for word in words)
    return Uses(
        family=family, reads=tuple(reads), guarded=frozenset(guarded), whole=frozenset(whole), local=local
    )


def _undeclared(template: nodes.Template) -> set[str]:
    """As `jinja2.meta.find_undeclared_variables`, but nothing is computed on the way: folding constants
    raises for some (`'a'.b ~ 'c'`)."""
    names = meta.TrackingCodeGenerator(template.environment)  # type: ignore[arg-type]
    names.optimizer = None
    names.visit(template)
    return names.undeclared_identifiers


def _files_that_see_the_row(family: Family) -> set[str]:
    found: set[str] = set()
    waiting = [family.root]
    while waiting:
        name = waiting.pop()
        if name in found or name not in family.trees:
            continue
        found.add(name)
        for reference, existing in family.references(name):
            if isinstance(reference.node, nodes.Extends) or reference.node.with_context:
                waiting += existing
    return found


def _stored(tree: Tree | nodes.Node) -> set[str]:
    names = {node.name for node in tree.find_all(nodes.Name) if node.ctx in ("store", "param")}
    names |= {node.name for node in tree.find_all(nodes.Macro)}
    names |= {node.target for node in tree.find_all(nodes.Import)}
    for node in tree.find_all(nodes.FromImport):
        names |= {part[1] if isinstance(part, tuple) else part for part in node.names}
    return names


def _stored_at_top(tree: Tree) -> set[str]:
    """What blocks see of the same file: names set outside of blocks, loops and macros."""
    names: set[str] = set()
    waiting: list[nodes.Node] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, nodes.If):
            waiting += [*node.body, *node.elif_, *node.else_]
        elif isinstance(node, nodes.Macro):
            names.add(node.name)
        elif isinstance(node, nodes.Assign | nodes.AssignBlock):
            names |= _stored(node.target)
            if isinstance(node.target, nodes.Name):
                names.add(node.target.name)
        elif isinstance(node, nodes.Import | nodes.FromImport):
            names |= _stored(nodes.Template([node]))
    return names


def _guarded(tree: Tree) -> set[tuple[str, str | None]]:
    found: set[tuple[str, str | None]] = set()
    for test in tree.find_all(nodes.Test):
        if test.name in _GUARDS:
            found |= {_target(test.node)}
    for use in tree.find_all(nodes.Filter):
        if use.name in _DEFAULTS and use.node is not None:
            found |= {_target(use.node)}
    return found


def _target(node: nodes.Node) -> tuple[str, str | None]:
    if isinstance(node, nodes.Name):
        return node.name, None
    field = _field(node)
    return field if field is not None else ("", None)


def _field(node: nodes.Node) -> tuple[str, str] | None:
    """`params.tone`, `params["tone"]`: the name and the field, where both are written out."""
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return node.node.name, node.attr
    if isinstance(node, nodes.Getitem) and isinstance(node.node, nodes.Name):
        key = node.arg
        if isinstance(key, nodes.Const) and isinstance(key.value, str):
            return node.node.name, key.value
    return None


def _uses_in(
    family: Family, name: str, undeclared: set[str], *, sees_row: bool
) -> tuple[list[Use], set[str]]:
    tree = family.trees[name]
    uses: list[Use] = []
    whole: set[str] = set()
    in_fields: set[int] = set()
    reads_run = RUN not in _stored(tree)
    for access in tree.find_all((nodes.Getattr, nodes.Getitem)):
        field = _field(access)
        if field is None or not (field[0] in RESERVED or (field[0] == RUN and reads_run)):
            continue
        is_method = isinstance(access, nodes.Getattr) and field[1] in _MAPPING_METHODS
        if not is_method:
            in_fields.update(id(child) for child in access.iter_child_nodes(only=("node",)))
            uses.append(Use(name=field[0], field=field[1], file=name, line=access.lineno, sees_row=sees_row))
    for node in tree.find_all(nodes.Name):
        if node.ctx != "load" or id(node) in in_fields:
            continue
        if node.name in RESERVED:
            whole.add(node.name)
        elif node.name in undeclared or (node.name == RUN and reads_run):
            uses.append(Use(name=node.name, field=None, file=name, line=node.lineno, sees_row=sees_row))
    return sorted(uses, key=lambda use: use.line), whole


# ---------------------------------------------------------------- judging


def wrong_names(
    uses: Uses, columns: Collection[str] | None, params: Mapping[str, Any], known: Collection[str]
) -> Iterator[Mistake]:
    """A mistake for each name that nothing defines, at its first use. `known` are the globals.

    Without `columns` (the dataset can't be read) only params are judged.
    """
    seen: set[tuple[str, str | None, bool]] = set()
    for use in uses.reads:
        if (use.name, use.field, use.sees_row) in seen or (use.name, use.field) in uses.guarded:
            continue
        seen.add((use.name, use.field, use.sees_row))
        if use.name == "params" and use.field is not None:
            mistake = _wrong_param(use, uses, params)
        elif use.name == RUN and use.field is not None:
            mistake = None if RUN in (columns or ()) else _wrong_moment(use, uses)
        elif columns is None:
            mistake = None
        elif use.field is not None:
            mistake = _wrong_column(use, uses, columns)
        elif use.name in known or (use.sees_row and use.name in columns):
            mistake = None
        else:
            mistake = _wrong_name(use, uses, columns, params)
        if mistake is not None:
            yield mistake


def bare_selves(family: Family) -> Iterator[Mistake]:
    """A mistake for each `self` that calls no block: as a value it is nothing but an object of Jinja2's."""
    for file, tree in family.trees.items():
        if SELF in _stored(tree):
            continue
        accesses = tree.find_all((nodes.Getattr, nodes.Getitem))
        asked = {id(child) for access in accesses for child in access.iter_child_nodes(only=("node",))}
        for name in tree.find_all(nodes.Name):
            if name.name == SELF and id(name) not in asked:
                what = f"`{SELF}` is the template itself and has no text"
                hint = f'a column is row["{SELF}"], a block {SELF}.name()'
                yield Mistake(where=family.where(file, name.lineno, SELF), what=what, hint=hint)


def _wrong_param(use: Use, uses: Uses, params: Mapping[str, Any]) -> Mistake | None:
    field = use.field or ""
    if field in params:
        return None
    hint = did_you_mean(field, params) or f"add it to `prompt.params`: {_listed('params', params)}"
    return Mistake(where=uses.where(use), what=f"`params.{field}` is not a param", hint=hint)


def _wrong_moment(use: Use, uses: Uses) -> Mistake | None:
    field = use.field or ""
    if field in RUN_FIELDS:
        return None
    hint = did_you_mean(field, RUN_FIELDS) or _listed("moments", RUN_FIELDS)
    return Mistake(where=uses.where(use), what=f"`run.{field}` is not a moment of the run", hint=hint)


def _wrong_column(use: Use, uses: Uses, columns: Collection[str]) -> Mistake | None:
    field = use.field or ""
    if field in columns:
        return None
    hint = did_you_mean(field, columns) or _listed("columns", columns)
    return Mistake(where=uses.where(use), what=f"`{field}` is not a column", hint=hint)


def _wrong_name(use: Use, uses: Uses, columns: Collection[str], params: Mapping[str, Any]) -> Mistake:
    what = f"`{use.name}` is neither a column nor set in the template"
    if use.name in params:
        hint = f"did you mean `params.{use.name}`?"
    elif use.name in columns:
        what = f"column `{use.name}` can't be seen in an imported file"
        hint = "import it `with context`, or hand the value to the macro"
    elif use.name in uses.local:
        hint = "a block sees the variables of a loop around it only as {% block ... scoped %}"
    else:
        hint = did_you_mean(use.name, columns) or _listed("columns", columns)
    return Mistake(where=uses.where(use), what=what, hint=hint)


def _listed(kind: str, names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:20])
    return f"{kind}: {shown}{', ...' if len(names) > 20 else ''}" if shown else f"there are no {kind}"


def unused_params(uses: Uses, params: Mapping[str, Any]) -> list[str]:
    """Params that no file reads; empty where `params` is also read as a whole."""
    if "params" in uses.whole:
        return []
    read = {use.field for use in uses.reads if use.name == "params"}
    return [name for name in params if name not in read]
