"""A template file to a `Prompt`: read, checked, compiled; and the value that carries it to other processes.

The rule: all that can be known without a row is checked here, and every mistake is reported at once. The
texts are read once: `PromptSource` holds them, so a worker renders what was planned even if somebody saves
the file meanwhile.
"""

from __future__ import annotations

import hashlib
import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from jinja2 import TemplateError, nodes

from runner.core.model import Cause, Message
from runner.errors import InputError, Mistake
from runner.prompt import variables
from runner.prompt.codegen import rebinds_params
from runner.prompt.environment import PromptEnvironment
from runner.prompt.files import Family, TemplateText, parse_family, read_family
from runner.prompt.filters import LAZY_FILTERS
from runner.prompt.folding import folded_names
from runner.prompt.limits import MIN_VALUE_LIMIT
from runner.prompt.rendering import Renderer, Shape
from runner.prompt.structure import check_structure, has_messages
from runner.prompt.trees import Tree
from runner.prompt.wording import readable_mistakes

_ROUND_NODES = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Include, nodes.Import, nodes.FromImport)
_NEXT_STEP = "correct the template; `run validate` checks it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSource:
    """Everything a prompt is made of; picklable. `texts` are the files once they were read, root first.

    `times` is what a template reads as `run`: moments by their names. `is_isolated`: the template is a
    stranger's, and only a process that is shut in looks at it.
    """

    template: str
    search_root: str | None
    params: Mapping[str, Any]
    max_output_bytes: int
    texts: tuple[TemplateText, ...] = field(default=(), repr=False)
    times: Mapping[str, datetime] = field(default_factory=dict)
    is_isolated: bool = False

    def compile(self, columns: Sequence[str] | None = None) -> Prompt:
        """The prompt. Reads the files if `texts` is empty. Raises InputError with every mistake.

        A prompt's own `check` judges names; where there will be none, they are judged here, so that nothing
        hides anything: all names with `columns`, else those of params.
        """
        if self.is_isolated:
            from runner.prompt.isolated import IsolatedPrompt  # few need it

            return IsolatedPrompt(self, columns)
        return self.compile_here(columns)

    def compile_here(self, columns: Sequence[str] | None = None) -> CompiledPrompt:
        """The same, in this process whatever the template."""
        environment = _environment(self)
        mistakes: list[Mistake] = []
        if self.texts:
            family = parse_family(environment, self.texts)
        else:
            family, mistakes = read_family(environment, self.template, self.search_root)
        mistakes += check_structure(family, environment)
        mistakes += folded_names(family)
        mistakes += variables.bare_selves(family)
        ready = None if mistakes else _environment(self, family)
        if ready is not None:
            mistakes += _compile_all(ready, family)
        if ready is None or mistakes:
            mistakes += _wrong_names(environment, family, columns, self.params)
            raise InputError(readable_mistakes(mistakes), next_step=_NEXT_STEP)
        root = family.texts[family.root]
        others = tuple(text for name, text in sorted(family.texts.items()) if name != family.root)
        return CompiledPrompt(replace(self, texts=(root, *others)), family, ready)

    def files(self) -> tuple[str, ...]:
        """Absolute paths of the files behind `texts`, the template itself first."""
        return tuple(text.path for text in self.texts)

    def digest(self) -> str:
        """SHA-256 in hex over the names and texts of all files; not over the params."""
        digest = hashlib.sha256()
        for text in self.texts:
            for part in (text.name.encode(), text.text.encode()):
                digest.update(b"%d\0" % len(part))
                digest.update(part)
        return digest.hexdigest()


def compile_prompt(
    template: str, *, search_root: str | None, params: Mapping[str, Any], max_output_bytes: int
) -> CompiledPrompt:
    """Read, check and compile a template.

    Paths:  `template` is absolute; `search_root` is the project's folder, whose `templates/` is searched
            for includes and parents after the template's own folder.
    Units:  `max_output_bytes` are UTF-8 bytes of all messages of one prompt.
    Errors: InputError with every mistake, each at `file:line`.
    """
    source = PromptSource(
        template=template, search_root=search_root, params=params, max_output_bytes=max_output_bytes
    )
    return source.compile_here()


class Prompt(Protocol):
    """A compiled template. One thread at a time; other processes compile `source` again."""

    source: PromptSource

    def render(self, row: Mapping[str, Any]) -> tuple[Message, ...] | Cause:
        """The messages of a row, or why it has none. Never raises."""

    def check(self, columns: Sequence[str] | None) -> list[Mistake]:
        """Names that the template reads and that neither the dataset nor the params have.

        Without `columns` (the dataset can't be read) only names of params.
        """

    def warnings(self, columns: Sequence[str] = ()) -> list[Mistake]:
        """What is probably not meant, but does no harm: unused params, columns hidden by our names."""

    def variables(self) -> tuple[str, ...]:
        """The columns that the template names, sorted; see `reads_whole_row`."""

    def columns(self) -> frozenset[str] | None:
        """All that a row must have for this template: names of columns, and others; None: every column."""

    def reads_whole_row(self) -> bool:
        """Whether `row` is also used as a whole (`row|tojson`, `row[name]`), so that any column counts."""

    def times_read(self, columns: Sequence[str]) -> tuple[str, ...]:
        """The moments of the run that the template reads (`run.started_at`), sorted; all of them where it
        reads `run` as a whole. None where `run` is a column."""

    def files(self) -> tuple[str, ...]:
        """Absolute paths of all files that the prompt is made of, the template itself first."""

    def digest(self) -> str:
        """SHA-256 in hex over the names and texts of all files; not over the params."""


class CompiledPrompt:
    """A `Prompt` in this process."""

    def __init__(self, source: PromptSource, family: Family, environment: PromptEnvironment) -> None:
        self.source = source
        self._uses = variables.find_uses(family)
        self._globals = frozenset(environment.globals) | set(variables.RESERVED)
        self._names = {name.name for tree in family.trees.values() for name in tree.find_all(nodes.Name)}
        self._renderer = Renderer(
            environment=environment,
            template=environment.get_template(family.root),
            shape=_shape(family),
            params=source.params,
            max_output_bytes=source.max_output_bytes,
            names=self._names,
        )

    def render(self, row: Mapping[str, Any]) -> tuple[Message, ...] | Cause:
        """See `Prompt`."""
        return self._renderer.render(row)

    def check(self, columns: Sequence[str] | None) -> list[Mistake]:
        """See `Prompt`."""
        known = self._globals
        return readable_mistakes(variables.wrong_names(self._uses, columns, self.source.params, known))

    def warnings(self, columns: Sequence[str] = ()) -> list[Mistake]:
        """See `Prompt`."""
        path = self.source.template
        found = [
            Mistake(where=path, path=f"prompt.params.{name}", what=f"`params.{name}` is not used")
            for name in variables.unused_params(self._uses, self.source.params)
        ]
        for name in (*variables.RESERVED, variables.SELF):
            if name in columns:
                what = f"in a template `{name}` is not the column of that name"
                found.append(Mistake(where=path, what=what, hint=f'the column is row["{name}"]'))
        return readable_mistakes(found)

    def variables(self) -> tuple[str, ...]:
        """See `Prompt`."""
        names = {use.name for use in self._uses.reads if use.field is None}
        names |= {use.field for use in self._uses.reads if use.name == "row" and use.field is not None}
        names |= {variables.RUN} & {use.name for use in self._uses.reads}
        return tuple(sorted(names - (self._globals - {variables.RUN})))

    def columns(self) -> frozenset[str] | None:
        """See `Prompt`."""
        if self.reads_whole_row():
            return None
        fields = {use.field for use in self._uses.reads if use.name == "row" and use.field is not None}
        return frozenset(self._names | fields)

    def reads_whole_row(self) -> bool:
        """See `Prompt`."""
        return "row" in self._uses.whole

    def times_read(self, columns: Sequence[str]) -> tuple[str, ...]:
        """See `Prompt`."""
        if variables.RUN in columns:
            return ()
        read = {use.field for use in self._uses.reads if use.name == variables.RUN}
        return tuple(variables.RUN_FIELDS) if None in read else tuple(sorted(filter(None, read)))

    def files(self) -> tuple[str, ...]:
        """See `Prompt`."""
        return self.source.files()

    def digest(self) -> str:
        """See `Prompt`."""
        return self.source.digest()


def _environment(source: PromptSource, family: Family | None = None) -> PromptEnvironment:
    """An environment to read files with, or (with `family`) to compile and run them."""
    texts = family.texts if family is not None else {}
    trees = family.trees if family is not None else {}
    rebound = any(rebinds_params(tree) for tree in trees.values())
    return PromptEnvironment(
        texts={name: (text.path, text.text) for name, text in texts.items()},
        params=source.params,
        times=source.times,
        value_limit=max(source.max_output_bytes, MIN_VALUE_LIMIT),
        mark=f"\0{secrets.token_hex(8)}\0",
        constants=[name for name, tree in trees.items() if _is_constant_file(tree)],
        constant_params={} if rebound else source.params,
    )


def _unknown() -> None:
    """Stands in for a filter or test that does not exist."""


def _wrong_names(
    environment: PromptEnvironment,
    family: Family,
    columns: Sequence[str] | None,
    params: Mapping[str, Any],
) -> list[Mistake]:
    """The names that nothing defines, in files that have other mistakes too. The environment is done with."""
    for tree in family.trees.values():
        for node in tree.find_all((nodes.Filter, nodes.Test)):
            # Unknown ones are told already; jinja2 would not look for names past them.
            known = environment.filters if isinstance(node, nodes.Filter) else environment.tests
            known.setdefault(node.name, _unknown)
    try:
        uses = variables.find_uses(family)
    except (TemplateError, RecursionError):
        return []
    known_names = frozenset(environment.globals) | set(variables.RESERVED)
    return list(variables.wrong_names(uses, columns, params, known_names))


def _compile_all(environment: PromptEnvironment, family: Family) -> list[Mistake]:
    """Compile every file now, so that nothing but rows can fail later."""
    mistakes: list[Mistake] = []
    for name, text in family.texts.items():
        try:
            with warnings.catch_warnings():
                # Python's own remarks on the code that Jinja2 makes of `1.x()` are not for a user's terminal.
                warnings.simplefilter("ignore", SyntaxWarning)
                environment.get_template(name)
        except TemplateError as error:
            line = getattr(error, "lineno", 1)
            mistakes.append(Mistake(where=f"{text.path}:{line}", what=f"template: {error.message}"))
        except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
            what = f"the template can't be compiled: {error}"
            mistakes.append(Mistake(where=text.path, what=what, hint="nest loops and blocks less deeply"))
    return mistakes


def _shape(family: Family) -> Shape:
    trees = family.trees.values()
    lazy = (use.name in LAZY_FILTERS for tree in trees for use in tree.find_all(nodes.Filter))
    return Shape(
        has_messages=has_messages(family),
        has_parents=any(tree.find(nodes.Extends) is not None for tree in trees),
        has_rounds=any(tree.find(kind) is not None for tree in trees for kind in _ROUND_NODES) or any(lazy),
    )


def _is_constant_file(tree: Tree) -> bool:
    """Whether a file holds nothing but text, macros and plain constants: its module can't change."""
    return all(_is_constant(node) for node in tree.body)


def _is_constant(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Output):
        return all(isinstance(part, nodes.TemplateData) for part in node.nodes)
    if isinstance(node, nodes.Assign):
        return isinstance(node.node, nodes.Const)
    return isinstance(node, nodes.Macro)
