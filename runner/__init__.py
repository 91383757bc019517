"""runner: a declarative job runner for LLM batch inference.

What other Python code may import: `load`, `plan` and `run` do what the commands of the same names do and
return frozen values. Nothing is printed; errors are `runner.errors.RunnerError` and its family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.version import __version__

if TYPE_CHECKING:
    from runner.interface import load, plan, run

__all__ = ["__version__", "load", "plan", "run"]


def __getattr__(name: str) -> object:
    # Heavy libraries are imported when first used, so that the command line starts quickly.
    if name in ("load", "plan", "run"):
        from runner import interface

        return getattr(interface, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
