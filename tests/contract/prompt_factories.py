"""Templates in a temporary folder, compiled with good defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.core.model import Cause, Message
from runner.errors import InputError
from runner.prompt import compile_prompt
from runner.prompt.compiling import CompiledPrompt


def write_templates(folder: Path, files: Mapping[str, str]) -> None:
    """Files by their names below `folder`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def make_prompt(
    folder: Path,
    template: str | Mapping[str, str],
    *,
    params: Mapping[str, Any] | None = None,
    max_output_bytes: int = 1_000_000,
    search_root: str | None = None,
) -> CompiledPrompt:
    """The prompt of `main.j2`; `template` is its text, or a mapping with all files."""
    write_templates(folder, {"main.j2": template} if isinstance(template, str) else template)
    return compile_prompt(
        str(folder / "main.j2"),
        search_root=search_root,
        params=params or {},
        max_output_bytes=max_output_bytes,
    )


def texts(outcome: tuple[Message, ...] | Cause) -> list[tuple[str, str]]:
    """Role and content of each message; fails for a row that has no messages."""
    assert not isinstance(outcome, Cause), outcome
    return [(message.role, message.content) for message in outcome]


def only_text(outcome: tuple[Message, ...] | Cause) -> str:
    """The content of a prompt of one user message."""
    [(role, content)] = texts(outcome)
    assert role == "user"
    return content


def cause_of(outcome: tuple[Message, ...] | Cause) -> tuple[str, str]:
    """Class and message of the cause; fails for a row that has messages."""
    assert isinstance(outcome, Cause), outcome
    return outcome.error_class, outcome.message


def mistakes_in(folder: Path, template: str | Mapping[str, str]) -> list[str]:
    """All mistakes of a template that can't be compiled, without the folder's name."""
    with pytest.raises(InputError) as caught:
        make_prompt(folder, template)
    return [str(mistake).replace(f"{folder}/", "") for mistake in caught.value.mistakes]
