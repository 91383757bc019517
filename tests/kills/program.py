"""The program as this harness runs it: started by the zygote, killed by name or by the clock."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

RUN_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one run ended. A negative code is the signal that killed it."""

    code: int
    stderr: str
    was_too_slow: bool = False


class Program:
    """Forks of one zygote. Safe for several threads."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kills.zygote"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._awaited: dict[int, Future[int]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        environ: Mapping[str, str],
        kill_after_s: float | None = None,
        weakness: str = "",
    ) -> Ended:
        """One run to its end, whatever that is. `kill_after_s`: SIGKILL so long after its start."""
        number = next(self._numbers)
        errors = cwd / f"stderr-{number}"
        order = {
            "id": number,
            "argv": list(argv),
            "cwd": str(cwd),
            "environ": dict(environ),
            "out": str(cwd / "stdout"),
            "err": str(errors),
            "weakness": weakness,
        }
        ended: Future[int] = Future()
        with self._lock:
            self._awaited[number] = ended
        self._tell(order)
        if kill_after_s is not None:
            with suppress(LateError):
                return Ended(code=ended.result(kill_after_s), stderr=_text(errors))
            self._tell({"kill": number})
        try:
            return Ended(code=ended.result(RUN_TIMEOUT_S), stderr=_text(errors))
        except LateError:
            self._tell({"kill": number})
            return Ended(code=ended.result(RUN_TIMEOUT_S), stderr=_text(errors), was_too_slow=True)

    def _tell(self, order: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            reply = json.loads(line)
            with self._lock:
                ended = self._awaited.pop(reply["id"])
            ended.set_result(reply["code"])
        with self._lock:
            left, self._awaited = list(self._awaited.values()), {}
        for ended in left:
            ended.set_exception(RuntimeError("the zygote died"))


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
