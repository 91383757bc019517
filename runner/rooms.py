"""Rooms whose parts are imported when somebody first asks for them.

A room names in `__all__` what it gives to others. Some of that brings a library along whose import takes
longer than many a command, so a name is looked for in the room's modules only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module


def found_in(room: str, names: Sequence[str], modules: Sequence[str]) -> Callable[[str], object]:
    """The `__getattr__` of a room: looks for one of the `names` in its modules, in this order."""

    def find(name: str) -> object:
        for module_name in modules if name in names else ():
            try:
                module = import_module(f"{room}.{module_name}")
            except AttributeError as error:  # a fault in there; as it is, the name would seem to be missing
                raise ImportError(f"{room}.{module_name}: {error}") from error
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module {room!r} has no attribute {name!r}")

    return find
