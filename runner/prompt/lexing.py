"""White space around tags: a line that holds nothing but tags and comments leaves no line in the prompt.

Every other line keeps its line break. Jinja2's own `trim_blocks` also eats the break after a tag at the end
of a line of text and so glues two lines of a prompt together; without it, every `{% if %}` on a line of its
own leaves an empty line. Explicit marks (`{%-`, `-%}`, `{%+`, `+%}`) work as in Jinja2.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2.lexer import Lexer

_Token = tuple[int, str, str]
_BEGINNINGS = {"block_begin": "block_end", "comment_begin": "comment_end"}
_WHOLE_TAGS = ("raw_begin", "raw_end")


class PromptLexer(Lexer):
    """Jinja2's lexer with the rule above. Needs an environment without trim_blocks and lstrip_blocks."""

    def tokeniter(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> Iterator[_Token]:
        """The tokens of a template, text of lone tag lines cut. Raises TemplateSyntaxError."""
        tokens = list(super().tokeniter(source, name, filename, state))
        yield from _without_tag_lines(tokens)


def _without_tag_lines(tokens: list[_Token]) -> Iterator[_Token]:
    cut = list(tokens)
    for start, end in _tag_runs(tokens):
        if not (_begins_line(tokens, start) and _ends_line(tokens, end)) or _is_marked(tokens[start:end]):
            continue
        if start:
            cut[start - 1] = _with_text(cut[start - 1], cut[start - 1][2].rstrip(" \t"))
        for place in range(start, end):
            if tokens[place][1] == "data":
                cut[place] = _with_text(cut[place], "")
        if end < len(tokens):
            line, kind, text = tokens[end]
            rest = text.lstrip(" \t")
            cut[end] = (line + rest.startswith("\n"), kind, rest.removeprefix("\n"))
    return (token for token in cut if token[1] != "data" or token[2])


def _with_text(token: _Token, text: str) -> _Token:
    return token[0], token[1], text


def _begins_line(tokens: list[_Token], start: int) -> bool:
    if start == 0:
        return True
    _, kind, text = tokens[start - 1]
    text = text.rstrip(" \t")
    return kind == "data" and (text.endswith("\n") or (not text and start == 1))


def _ends_line(tokens: list[_Token], end: int) -> bool:
    if end == len(tokens):
        return True
    _, kind, text = tokens[end]
    text = text.lstrip(" \t")
    return kind == "data" and (text.startswith("\n") or (not text and end + 1 == len(tokens)))


def _is_marked(run: list[_Token]) -> bool:
    """Whether a tag of the run says by a `+` that its white space shall stay."""
    return any("+" in text for _, kind, text in run if kind in _EDGES)


_EDGES = (*_BEGINNINGS, *_BEGINNINGS.values())


def _tag_runs(tokens: list[_Token]) -> Iterator[tuple[int, int]]:
    """Maximal runs of tags and comments with only spaces between them, as [start, end)."""
    position = 0
    while position < len(tokens):
        start, end = position, _after_tag(tokens, position)
        if end == start:
            position += 1
            continue
        while (longer := _after_tag(tokens, _after_spaces(tokens, end))) > _after_spaces(tokens, end):
            end = longer
        yield start, end
        position = end


def _after_spaces(tokens: list[_Token], position: int) -> int:
    is_blank = (
        position < len(tokens) and tokens[position][1] == "data" and not tokens[position][2].strip(" \t")
    )
    return position + is_blank


def _after_tag(tokens: list[_Token], position: int) -> int:
    """The position after the tag that begins here; `position` itself where none does."""
    if position >= len(tokens):
        return position
    kind = tokens[position][1]
    if kind in _WHOLE_TAGS:
        return position + 1
    closing = _BEGINNINGS.get(kind)
    if closing is None:
        return position
    for end in range(position + 1, len(tokens)):
        if tokens[end][1] == closing:
            return end + 1
    return position  # never closed: the parser says so
