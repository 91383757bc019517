"""What we change in the Python code that Jinja2 makes of a template: marks, rounds, texts, params.

Theory. The messages of a prompt are blocks, but the prompt must be what Jinja2 itself renders: sets before
blocks, inheritance, `super()`, conditions and loops around blocks. So the template is rendered once, as a
whole, and the place of each message is marked in the text: a mark and a letter before the block, a mark
and `e` after it. Rendering block by block was rejected (what stands outside of the blocks would not run),
and so was wrapping the block functions (it breaks `super()`). The mark holds a random token that neither
the template nor the data can know; it never reaches a prompt.

Every round of a loop and every call of a macro ticks (see `environment.tick`). A printed value that is a
`str` is taken as it is, without a call. `params.tone` is a constant of the run, so a plain one is put in
when the template is compiled; a text of nothing but constants then costs nothing per row. What is compared is
looked at first (`limits.comparable`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators

from runner.prompt.trees import Tree

LETTERS = {"system": "s", "user": "u", "assistant": "a"}
"""The blocks that are messages, and the letter that stands after the mark."""
END = "e"


class PromptCodeGenerator(CodeGenerator):
    """Jinja2's code generator with the changes above."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802
        """Prepare the tree, then generate."""
        mark: str = self.environment.mark  # type: ignore[attr-defined]
        _mark_messages(node, mark)
        for looping in list(node.find_all(nodes.Node)):
            if isinstance(looping, nodes.For | nodes.Macro | nodes.CallBlock):
                looping.body.insert(0, nodes.ExprStmt(nodes.Const(None), lineno=looping.lineno))
            elif isinstance(looping, nodes.Concat):
                looping.nodes[:] = [_null_as_text(part) for part in looping.nodes]
        _put_in_params(node, self.environment.constant_params)  # type: ignore[attr-defined]
        super().visit_Template(node, frame)

    def visit_ExprStmt(self, node: nodes.ExprStmt, frame: Frame) -> None:  # noqa: N802
        """Only our own ticks are expression statements: the `do` extension is not loaded."""
        self.newline(node)
        self.write("environment.tick()")

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: object) -> None:
        self.write("(_value if (_value := ")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: object) -> None:
        self.write(").__class__ is str else environment.text_of(_value))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802
        """`a == b`, `a in b`, `a < b < c`: only of what can be compared in bounded time."""
        self.write("(")
        self._visit_compared(node.expr, frame)
        for operand in node.ops:
            self.write(f" {operators[operand.op]} ")
            self._visit_compared(operand.expr, frame)
        self.write(")")

    def _visit_compared(self, node: nodes.Expr, frame: Frame) -> None:
        if isinstance(node, nodes.Const):
            self.visit(node, frame)
            return
        self.write("environment.comparable(")
        self.visit(node, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        """`a ~ b`: bounded, NULL as empty text."""
        self.write("environment.join_texts((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


def is_message(node: nodes.Node) -> bool:
    """Whether a node is one of the blocks that are messages."""
    return isinstance(node, nodes.Block) and node.name in LETTERS


def _null_as_text(node: nodes.Expr) -> nodes.Expr:
    return nodes.Const("", lineno=node.lineno) if node == nodes.Const(None) else node


def rebinds_params(tree: Tree) -> bool:
    """Whether `params` may mean something else in this file: set, looped over, imported or an argument."""
    named = any(name.name == "params" and name.ctx != "load" for name in tree.find_all(nodes.Name))
    macros = any(macro.name == "params" for macro in tree.find_all(nodes.Macro))
    modules = any(module.target == "params" for module in tree.find_all(nodes.Import))
    parts = [part for module in tree.find_all(nodes.FromImport) for part in module.names]
    return named or macros or modules or any("params" in (part, part[-1]) for part in parts)


def _put_in_params(node: nodes.Node, params: Mapping[str, Any]) -> None:
    for field, value in node.iter_fields():
        if isinstance(value, list):
            value[:] = [_constant_param(item, params) for item in value]
        elif isinstance(value, nodes.Node):
            setattr(node, field, _constant_param(value, params))
    for child in node.iter_child_nodes():
        _put_in_params(child, params)


def _constant_param(node: Any, params: Mapping[str, Any]) -> Any:
    """`params.tone` as a constant, if it is a text or whole number that no method of a mapping hides."""
    if not (isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name)):
        return node
    value = params.get(node.attr) if node.node.name == "params" and not hasattr(params, node.attr) else None
    if type(value) not in (str, int, bool):
        return node
    return nodes.Const(value, lineno=node.lineno)


def _mark_messages(node: nodes.Node, mark: str) -> None:
    for _, value in node.iter_fields():
        if isinstance(value, list):
            value[:] = _with_marks(value, mark)
    for child in node.iter_child_nodes():
        _mark_messages(child, mark)


def _with_marks(statements: list[nodes.Node], mark: str) -> Iterable[nodes.Node]:
    marked: list[nodes.Node] = []
    for statement in statements:
        if isinstance(statement, nodes.Block) and is_message(statement):
            letter = LETTERS[statement.name]
            marked += [_text(mark + letter, statement), statement, _text(mark + END, statement)]
        else:
            marked.append(statement)
    return marked


def _text(text: str, beside: nodes.Node) -> nodes.Output:
    return nodes.Output([nodes.TemplateData(text, lineno=beside.lineno)], lineno=beside.lineno)
