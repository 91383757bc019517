"""One child process: makes examples, judges each, and never goes beyond its bounds.

A fault is any exception that a kind lets out, an example that takes too long, and what the guard sees. The
number of the example under way stands in a file, so that a child that dies can be blamed on one.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol

CPU_S, WALL_S, STUCK_S = 20.0, 120.0, 300.0
"""What one example may take; a limit for hangs, far from what any needs. The last one ends the process:
native code that never comes back can't be interrupted."""
ADDRESS_SPACE_BYTES = 3 << 30
PROGRESS = "under-way"


class Kind(Protocol):
    """A kind of example. `folder` (given when it is made) is the only place where it may write."""

    def make(self, random: Random) -> Any:
        """The next example, from this source of chance alone."""

    def judge(self, example: Any) -> str:
        """How it ended, as a word for the tally. Raises for a fault."""


@dataclass
class Figures:
    """What came of some examples."""

    kind: str
    examples: int = 0
    slowest_s: float = 0.0
    peak_mb: float = 0.0
    endings: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> str:
        """One line."""
        return json.dumps(vars(self))


class HangError(BaseException):
    """An example takes too long. Not an Exception: nothing under test may catch it."""


class TrespassError(BaseException):
    """Something was written outside the folder, started or connected."""


def random_of(seed: int, kind: str, number: int) -> Random:
    """The chance of one example."""
    return Random(f"{seed}/{kind}/{number}")


def drive(name: str, kind: Kind, numbers: range, *, seed: int, folder: Path) -> Figures:
    """Make and judge these examples."""
    figures = Figures(name)
    _bound_memory()
    guard = _Guard(folder)
    progress = os.open(folder / PROGRESS, os.O_WRONLY | os.O_CREAT, 0o600)
    for number in numbers:
        os.pwrite(progress, b"%12d" % number, 0)
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
        begun = time.process_time()
        try:
            example = kind.make(random_of(seed, name, number))
            with _watched(), guard.watching():
                figures.endings[kind.judge(example)] += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            figures.faults.append({"number": number, "what": _described(error)})
        figures.examples += 1
        figures.slowest_s = max(figures.slowest_s, time.process_time() - begun)
    faulthandler.cancel_dump_traceback_later()
    os.close(progress)
    figures.peak_mb = _peak_mb()
    return figures


def _peak_mb() -> float:
    """Of this process alone, where the system says it: ru_maxrss begins with the peak of its parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = status.read_text().split("\n")
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _described(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__}: {str(error)[:300]} at {places}"


def _bound_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, hard))


@contextmanager
def _watched() -> Iterator[None]:
    """An alarm by processor time and one by the clock on the wall."""

    def ring(*_: object) -> None:
        raise HangError(f"more than {CPU_S:g} s of work or {WALL_S:g} s of waiting")

    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, ring)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


class _Guard:
    """An audit hook: what Python opens for writing, moves, removes, starts or connects to."""

    _CHANGING = (
        "os.mkdir",
        "os.rename",
        "os.remove",
        "os.rmdir",
        "os.symlink",
        "os.link",
        "os.truncate",
        "os.chmod",
    )
    _FORBIDDEN = (
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "socket.connect",
        "socket.bind",
    )

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder.resolve())
        self._is_on = False
        self._seen: list[str] = []
        sys.addaudithook(self._hear)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raises TrespassError at the end of the block for what was seen in it."""
        self._seen.clear()
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False
        if self._seen:
            raise TrespassError("; ".join(self._seen[:5]))

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes and isinstance(path, str | bytes):
                self._check(event, path)
        elif event in self._CHANGING:
            # `shutil.rmtree` removes by name within a folder that it holds open.
            is_within = isinstance(arguments[-1], int) and arguments[-1] != -1
            for path in () if is_within else arguments[:2]:
                if isinstance(path, str | bytes | os.PathLike):
                    self._check(event, path)
        elif event in self._FORBIDDEN:
            self._seen.append(f"{event} {arguments!r:.200}")

    def _check(self, event: str, path: Any) -> None:
        whole = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - a link must not be followed here
        if whole != self._folder and not whole.startswith(self._folder + os.sep) and whole != "/dev/null":
            self._seen.append(f"{event} {whole}")
