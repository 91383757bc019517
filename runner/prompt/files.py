"""The template files: where they may lie, how they are read, and which of them belong to a template.

The rule: after `read_family` nothing is read from disk again. All files that a template includes, imports
or extends are found by their names, which must be written out, so the set is complete: it is what the
digest covers and what a worker process compiles. A file is found in the template's own folder, in the
nearest folder named `templates` at or above it, or in `templates/` of the project; nothing that lies
elsewhere can be named, nor reached through a symbolic link.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, TemplateSyntaxError, nodes

from runner.errors import Mistake
from runner.prompt.trees import Tree, tree_of

MAX_TEMPLATE_BYTES = 1_000_000
MAX_TREE_DEPTH = 200
"""Every walk over a tree goes down by calls, so a deeper one would end in a RecursionError somewhere."""
_UNKNOWN_TAG = re.compile(r"unknown tag '(\w+)'")
_TAGS: dict[type[nodes.Node], str] = {
    nodes.Extends: "extends",
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "from",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateText:
    """One file: its name within its folder (as templates write it), absolute path, text."""

    name: str
    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One `{% extends %}`, `{% include %}`, `{% import %}` of a file; `names` as written out."""

    node: nodes.Extends | nodes.Include | nodes.Import | nodes.FromImport
    expression: nodes.Expr
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A template (`root` is its name) and all it needs. `trees` lacks files that have syntax errors."""

    root: str
    texts: Mapping[str, TemplateText]
    trees: Mapping[str, Tree]

    def where(self, name: str, line: int, word: str = "") -> str:
        """The place of a word in one of the files; `place_of` says how."""
        text = self.texts[name]
        return place_of(text.path, text.text, line, word)

    def references(self, name: str) -> Iterator[tuple[Reference, tuple[str, ...]]]:
        """The references in a file, each with those of its names that exist."""
        for reference in references_in(self.trees[name]):
            yield reference, tuple(other for other in reference.names if other in self.trees)


def place_of(path: str, text: str, line: int, word: str) -> str:
    """`path:line:column` of a word: of its first appearance in the line that stands inside a tag.

    jinja2 knows lines only. Where no tag holds the word (it began on a line before), the column is left out.
    """
    lines = text.split("\n", line)
    source = lines[line - 1] if 0 < line <= len(lines) else ""
    for found in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", source) if word else ():
        before = source[: found.start()]
        if max(before.rfind("{{"), before.rfind("{%")) > max(before.rfind("}}"), before.rfind("%}")):
            return f"{path}:{line}:{found.start() + 1}"
    return f"{path}:{line}"


def search_folders(template: str, search_root: str | None) -> tuple[str, ...]:
    """The folders in which names are looked up, first one first. Absolute paths, links resolved."""
    own = Path(template).parent.resolve()
    folders = [own]
    root = None if search_root is None else Path(search_root).resolve()
    inside = root is None or own.is_relative_to(root)
    for folder in (own, *own.parents) if inside else ():
        if root is not None and not folder.is_relative_to(root):
            break
        if folder.name == "templates":
            folders.append(folder)
            break
    if root is not None:
        folders.append(root / "templates")
    return tuple(dict.fromkeys(str(folder) for folder in folders))


def read_family(
    environment: Environment, template: str, search_root: str | None
) -> tuple[Family, list[Mistake]]:
    """Read and parse a template and everything it names; every mistake found on the way."""
    reader = _Reader(environment, search_folders(template, search_root))
    reader.read_root(template)
    return reader.family(Path(template).name), reader.mistakes


def parse_family(environment: Environment, texts: tuple[TemplateText, ...]) -> Family:
    """A family from texts that were read before, in another process. `texts[0]` is the root."""
    by_name = {text.name: text for text in texts}
    trees = {text.name: tree_of(environment.parse(text.text, text.name, text.path)) for text in texts}
    return Family(root=texts[0].name, texts=by_name, trees=trees)


class _Reader:
    def __init__(self, environment: Environment, folders: tuple[str, ...]) -> None:
        self.mistakes: list[Mistake] = []
        self._environment = environment
        self._folders = folders
        self._texts: dict[str, TemplateText] = {}
        self._trees: dict[str, Tree] = {}

    def family(self, root: str) -> Family:
        return Family(root=root, texts=self._texts, trees=self._trees)

    def read_root(self, path: str) -> None:
        open_names = self._read(Path(path).name, path)
        while open_names:
            name, place = open_names.pop(0)
            if name not in self._texts and place is not None:
                open_names += self._read(name, place)

    def _read(self, name: str, path: str) -> list[tuple[str, str | None]]:
        """Read one file; give the names it needs and their paths."""
        text = read_text(path)
        if isinstance(text, Mistake):
            self.mistakes.append(text)
            text = ""
        self._texts[name] = TemplateText(name=name, path=path, text=text)
        try:
            tree = tree_of(self._environment.parse(text, name, path))
        except TemplateSyntaxError as error:
            unknown = _UNKNOWN_TAG.search(error.message or "")
            where = place_of(path, text, error.lineno, unknown[1] if unknown else "")
            self.mistakes.append(Mistake(where=where, what=_sentence(error)))
            return []
        except ValueError:
            # Python makes no number of more than 4,300 digits, wherever it stands.
            self.mistakes.append(Mistake(where=path, what="a number in the template has too many digits"))
            return []
        except RecursionError:
            tree = None
        if tree is None or tree.depth >= MAX_TREE_DEPTH:
            hint = "split long sums and nested blocks with {% set %} and {% include %}"
            self.mistakes.append(Mistake(where=path, what="the template is nested too deeply", hint=hint))
            return []
        self._trees[name] = tree
        found: list[tuple[str, str | None]] = []
        for reference in references_in(tree):
            found += self._find_all(reference, path, text)
        return found

    def _find_all(self, reference: Reference, path: str, text: str) -> list[tuple[str, str | None]]:
        line = reference.node.lineno
        where = place_of(path, text, line, _TAGS[type(reference.node)])
        if not reference.names:
            self.mistakes.append(
                Mistake(
                    where=where,
                    what="the name of a template is computed",
                    hint="write the name out; use {% if %} where it depends on the row",
                )
            )
        found: list[tuple[str, str | None]] = []
        for name in reference.names:
            refusal = _refusal(name)
            if refusal:
                where = place_of(path, text, line, name)
                self.mistakes.append(Mistake(where=where, what=f"{name!r} can't be loaded", hint=refusal))
                return []
            found.append((name, _find(name, self._folders)))
        may_miss = isinstance(reference.node, nodes.Include) and reference.node.ignore_missing
        is_choice = isinstance(reference.expression, nodes.List | nodes.Tuple)
        missing = [name for name, place in found if place is None]
        if missing and not may_miss and not (is_choice and len(missing) < len(found)):
            hint = f"it must lie in {' or '.join(self._folders)}"
            for name in missing:
                where = place_of(path, text, line, name)
                self.mistakes.append(Mistake(where=where, what=f"template {name!r} not found", hint=hint))
        return found


def _sentence(error: TemplateSyntaxError) -> str:
    return f"template syntax: {(error.message or 'invalid').rstrip('.')}"


def references_in(tree: Tree) -> Iterator[Reference]:
    """All references in a file; a name that is computed gives a reference without names."""
    for node in tree.find_all(nodes.Stmt):
        if isinstance(node, nodes.Extends | nodes.Include | nodes.Import | nodes.FromImport):
            yield Reference(node=node, expression=node.template, names=_constant_names(node.template))


def _constant_names(expression: nodes.Node) -> tuple[str, ...]:
    match expression:
        case nodes.Const(value=str(name)):
            return (name,)
        case nodes.Const(value=tuple() | list() as names):
            return tuple(names) if all(isinstance(name, str) for name in names) else ()
        case nodes.List() | nodes.Tuple():
            parts = [_constant_names(item) for item in expression.items]
        case nodes.CondExpr(expr2=nodes.Node() as otherwise):
            parts = [_constant_names(expression.expr1), _constant_names(otherwise)]
        case _:
            return ()
    return tuple(name for part in parts for name in part) if all(parts) else ()


def _refusal(name: str) -> str:
    """Why a name can't name a template, or empty."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name:
        return "write a path below the templates folder, with /"
    if any(part in ("", ".", "..") for part in parts):
        return "`.` and `..` are not allowed: names count from the templates folder"
    return ""


def _find(name: str, folders: tuple[str, ...]) -> str | None:
    for folder in folders:
        path = Path(folder, name)
        try:
            real = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            continue
        if real.is_relative_to(folder) and real.is_file():
            return str(path)
    return None


def read_text(path: str) -> str | Mistake:
    """A template's text, or what is wrong with the file."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return Mistake(where=path, what="the template is not a regular file")
        with Path(path).open("rb") as file:
            data = file.read(MAX_TEMPLATE_BYTES + 1)
    except FileNotFoundError:
        return Mistake(where=path, what="the template does not exist")
    except (OSError, ValueError) as error:
        return Mistake(where=path, what=f"the template can't be read: {getattr(error, 'strerror', error)}")
    if len(data) > MAX_TEMPLATE_BYTES:
        return Mistake(where=path, what=f"the template is larger than {MAX_TEMPLATE_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Mistake(where=f"{path}:{line}", what="not UTF-8 text", hint="save the file as UTF-8")
