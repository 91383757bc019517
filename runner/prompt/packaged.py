"""Templates that this package ships, such as the files of `run schedule emit`: trusted texts, rendered once.

Not for prompts. It is here because jinja2 is; the sandbox, which guards against the templates of users, and
the rules for white space of messages are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined


def render_packaged(text: str, values: Mapping[str, Any]) -> str:
    """The text with its values put in as they are: whoever calls has quoted them for the file's language.

    A line with nothing but a tag leaves no line. Raises jinja2's errors, which are faults of this program.
    """
    environment = Environment(  # noqa: S701 - no HTML: each file has another language with other quotes
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(text).render(values)
