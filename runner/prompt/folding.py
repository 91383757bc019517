"""Names that are two in a template and one in the code that is made of it.

Theory. Jinja2 makes a Python variable of every name, and Python reads identifiers in their NFKC form: wide
`ＩＤ` as `ID`, `é` of two signs as that of one. Values are looked up by the name as it is written, so a name
that is alone in its form gets its own value; of two in one file, both get that of whichever came last, and
the prompt is another one than its text says. Other files are other code: they hand names on as they are
written. Blocks become functions, and the names of arguments in a call are read by Python as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from unicodedata import normalize

from jinja2 import nodes

from runner.errors import Mistake
from runner.prompt.files import Family
from runner.prompt.trees import Tree

_Names = Iterator[tuple[str, int]]
"""Names and their lines, as they stand in a file."""


def folded_names(family: Family) -> Iterator[Mistake]:
    """A mistake for each name that would be taken for another one."""
    for file, tree in family.trees.items():
        for name, other, line in _alike(_variables(tree)):
            column = name if name != _folded(name) else other
            hint = f'write row["{_spelt(name, other, column)}"] for a column; rename what the template sets'
            what = f"`{name}` and `{other}` are one name in a template"
            yield Mistake(where=family.where(file, line, name), what=what, hint=hint)
        blocks = ((block.name, block.lineno) for block in tree.find_all(nodes.Block))
        for name, other, line in _alike(blocks):
            what = f"the blocks `{name}` and `{other}` have one name in a template"
            yield Mistake(where=family.where(file, line, name), what=what, hint="rename one of them")
        for argument in tree.find_all(nodes.Keyword):
            if argument.key != _folded(argument.key):
                where = family.where(file, argument.lineno, argument.key)
                what = f"the argument `{argument.key}` would be handed on as `{_folded(argument.key)}`"
                yield Mistake(where=where, what=what, hint="write it so, where it is named too")


def _variables(tree: Tree) -> _Names:
    """All that becomes a variable: what is read, set, looped over, imported, and arguments."""
    for node in tree.find_all(nodes.Node):
        match node:
            case nodes.Name() | nodes.NSRef() | nodes.Macro():
                yield node.name, node.lineno
            case nodes.Import():
                yield node.target, node.lineno
            case nodes.FromImport():
                for part in node.names:
                    yield part[1] if isinstance(part, tuple) else part, node.lineno
            case nodes.For():
                yield "loop", node.lineno


def _alike(names: _Names) -> Iterator[tuple[str, str, int]]:
    """Each name that has the form of another one before it: the name, the other, the line."""
    first: dict[str, str] = {}
    told: set[str] = set()
    for name, line in names:
        other = first.setdefault(_folded(name), name)
        if name != other and name not in told:
            told.add(name)
            yield name, other, line


def _folded(name: str) -> str:
    """The name as Python reads it."""
    return normalize("NFKC", name)


def _spelt(name: str, other: str, column: str) -> str:
    """The column's name for a text in a template; in escapes where the two look the same."""
    return ascii(column)[1:-1] if normalize("NFC", name) == normalize("NFC", other) else column
