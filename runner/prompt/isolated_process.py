"""The process in which a foreign template is read, compiled and rendered: `python -m ... DESCRIPTOR`.

Started by `isolated`, with no environment but what Python needs. It takes one introduction over its socket,
shuts itself in (`confinement`), and only then looks at the template. What it is told comes from the process
that started it and is trusted; what it says is trusted by nobody, so it is plain JSON.

    <- PromptSource, folders, memory, patience, parent   -> {"ready": true} or {"refused": why}
    <- (question, argument)   -> {"is": answer}, or {"mistakes": [...], "next_step": ...}

It ends with its parent: the kernel sees to that, whatever runs here.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

from runner.core.model import Cause
from runner.errors import InputError, Mistake
from runner.prompt import confinement
from runner.prompt.compiling import CompiledPrompt

# All that rows and templates bring to life later: nothing can be loaded once the walls stand.
import datetime  # noqa: F401  isort: skip
import decimal  # noqa: F401  isort: skip
import uuid  # noqa: F401  isort: skip
import zoneinfo  # noqa: F401  isort: skip

HEAD = struct.Struct("<Q")


def main(descriptor: int) -> None:
    """Serve until the parent goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    source, readable, memory_bytes, patience_s, parent = pickle.loads(_take(descriptor))  # noqa: S301 - from our own parent
    try:
        confinement.end_with(parent)
        confinement.confine(readable, memory_bytes=memory_bytes)
        confinement.probe()
    except confinement.ConfinementError as error:
        _say(descriptor, {"refused": str(error)})
        return
    _say(descriptor, {"ready": True})
    prompt: CompiledPrompt | None = None
    while True:
        question, argument = pickle.loads(_take(descriptor))  # noqa: S301 - from our own parent
        signal.setitimer(signal.ITIMER_REAL, patience_s)  # what never comes back ends, parent or no parent
        try:
            if prompt is None:
                prompt = source.compile_here(argument)
                answer: Any = [[text.name, text.path, text.text] for text in prompt.source.texts]
            else:
                answer = _ANSWERS[question](prompt, argument)
            reply = {"is": answer}
        except InputError as error:
            reply = {"mistakes": _plain(error.mistakes), "next_step": error.next_step}
        signal.setitimer(signal.ITIMER_REAL, 0)
        _say(descriptor, reply)


def _rendered(prompt: CompiledPrompt, row: Mapping[str, Any]) -> Any:
    outcome = prompt.render(row)
    if isinstance(outcome, Cause):
        return {"cause": [outcome.error_class, outcome.message]}
    return [[message.role, message.content] for message in outcome]


def _plain(mistakes: Any) -> list[list[str]]:
    return [[one.where, one.what, one.path, one.hint] for one in mistakes if isinstance(one, Mistake)]


def _columns(prompt: CompiledPrompt, _: None) -> list[str] | None:
    found = prompt.columns()
    return None if found is None else sorted(found)


_ANSWERS: Mapping[str, Callable[[CompiledPrompt, Any], Any]] = {
    "render": _rendered,
    "check": lambda prompt, columns: _plain(prompt.check(columns)),
    "warnings": lambda prompt, columns: _plain(prompt.warnings(columns)),
    "variables": lambda prompt, _: list(prompt.variables()),
    "columns": _columns,
    "reads_whole_row": lambda prompt, _: prompt.reads_whole_row(),
    "times_read": lambda prompt, columns: list(prompt.times_read(columns)),
}


def _say(descriptor: int, reply: dict[str, Any]) -> None:
    data = json.dumps(reply).encode()
    view = memoryview(HEAD.pack(len(data)) + data)
    while view:
        view = view[os.write(descriptor, view) :]


def _take(descriptor: int) -> bytes:
    """The next message. Leaves the process where the parent has gone."""
    (size,) = HEAD.unpack(_exactly(descriptor, HEAD.size))
    return _exactly(descriptor, size)


def _exactly(descriptor: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = os.read(descriptor, min(size - len(data), 1 << 20))
        if not more:
            os._exit(0)
        data += more
    return bytes(data)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    finally:
        os._exit(1)
