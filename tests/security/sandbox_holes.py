"""A sandbox with a hole, as a later Jinja2 may have one: what a row says is run as Python, where it renders.

`Hole` among the params opens it in whatever process these are unpickled in, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.core.model import Message
from runner.prompt.compiling import CompiledPrompt


class Hole:
    """Unpickled, it is a plain text, and every prompt of that process runs the row's `code`."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return opened, ()


def opened() -> str:
    """Breaks this process."""
    CompiledPrompt.render = run_code  # type: ignore[method-assign,assignment]
    return "plain"


def run_code(_prompt: CompiledPrompt, row: Mapping[str, Any]) -> tuple[Message, ...]:
    """What `code` sets `found` to, or the exception that it ended in, is the prompt."""
    names: dict[str, Any] = {}
    try:
        exec(row["code"], names)
    except Exception as error:
        names["found"] = type(error).__name__
    return (Message(role="user", content=str(names["found"])),)
