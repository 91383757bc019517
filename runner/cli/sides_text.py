"""Old beside new: examples of a plan as unified diffs, two runs' answers side by side.

Prompts and answers are foreign text: every line is cleaned before it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from runner.cli.texts import clean, clean_text

if TYPE_CHECKING:
    from runner.commands.examples import Example, MessageChange

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def examples_text(examples: Sequence[Example], *, is_coloured: bool) -> list[str]:
    """The lines of `run plan --diff N`: a head for each row, then a diff for each message that differs."""
    lines = []
    for one in examples:
        columns = f" ({', '.join(map(clean, one.columns))})" if one.columns else ""
        parts = [part + (columns if part == "dataset" else "") for part in one.changed]
        lines += ["", f"row {one.position + 1:,}, key {clean(one.key)}: {', '.join(parts)} changed"]
        if one.problem is not None:
            lines.append(f"  {clean(one.problem)}")
        elif not one.messages:
            lines.append("  the prompt is the same")
        for message in one.messages:
            lines += [f"  {clean(message.role)}", *_diff_lines(message, is_coloured)]
    return lines


def _diff_lines(message: MessageChange, is_coloured: bool) -> list[str]:
    """Marks first, each line indented; coloured on a terminal."""
    lines = []
    for line in message.diff():
        mark, rest = line[:1], line[1:]
        shown = f"    {mark}{''.join(clean_text(rest))}".rstrip()
        lines.append(click.style(shown, fg=_COLOURS[mark]) if is_coloured and mark in _COLOURS else shown)
    return lines
