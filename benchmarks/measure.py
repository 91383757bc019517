"""One process and what it takes: seconds on the wall and on the cores, the peak of its tree, its events.

Memory is the proportional set size (PSS) of the process and all its children together, so that pages they
share count once, looked at ten times a second; a peak between two looks is caught by the high-water mark of
each process, which the kernel keeps. Linux only: elsewhere the peak is that of the largest process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOK_S = 0.1
_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parents[1]
"""Where `python -m benchmarks...` and `python -m runner` find their modules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A JSON line of the process, when it came (seconds after the start), and what the process and its
    children had used of the cores by then."""

    at_s: float
    cpu_s: float
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.values.get("event", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a process took. `cpu_s` counts its children too; `peak_mb` is of the whole tree, in 10^6 bytes."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    exit_code: int
    events: tuple[Event, ...] = ()

    def first(self, *names: str) -> Event:
        """The first event of these names."""
        return next(event for event in self.events if event.name in names)

    def last(self, *names: str) -> Event:
        """The last event of these names."""
        return next(event for event in reversed(self.events) if event.name in names)

    def has(self, name: str) -> bool:
        return any(event.name == name for event in self.events)


class WrongEndError(Exception):
    """What was to be measured did not do its work: a figure of it would be a lie."""


def measured(
    command: Sequence[str],
    *,
    cwd: Path,
    allowed: Sequence[int] = (0,),
    core: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> Measured:
    """Run it to its end. Lines of JSON objects on stdout become events. `core`: on this core alone.

    Raises WrongEndError for an exit code that is not `allowed`.
    """
    with tempfile.TemporaryFile() as complaints:
        began_s = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=complaints,
            stdin=subprocess.DEVNULL,
            # Who installs the program has it compiled; where this is set, each start would do that anew.
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "", **(environ or {})},
            preexec_fn=_pinned(core),
        )
        watch = _Watch(process.pid)
        listener = _Listener(process, began_s)
        listener.start()
        while not _has_ended(process.pid):
            watch.look()
            time.sleep(LOOK_S)
        wall_s = time.perf_counter() - began_s
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = exit_code = os.waitstatus_to_exitcode(status)
        listener.join()
        complaints.seek(0)
        said = complaints.read()[-4_000:].decode(errors="replace")
    if exit_code not in allowed:
        raise WrongEndError(f"{' '.join(command)}\nended with exit code {exit_code}\n{said}")
    return Measured(
        wall_s=min(wall_s, listener.closed_s or wall_s),
        cpu_s=used.ru_utime + used.ru_stime,
        peak_mb=max(watch.peak_bytes, 0 if watch.has_looked else used.ru_maxrss * 1024) / 1e6,
        exit_code=exit_code,
        events=tuple(listener.events),
    )


def runner(*words: str) -> list[str]:
    """The program, as people start it."""
    return [sys.executable, "-m", "runner", *words]


def module(name: str, *words: str) -> list[str]:
    """A part of the benchmarks as a process of its own."""
    return [sys.executable, "-m", f"benchmarks.{name}", *words]


def tell(event: str, **values: Any) -> None:
    """What a measured part says of itself: one JSON line."""
    print(json.dumps({"event": event, **values}), flush=True)


def _pinned(core: int | None) -> Callable[[], None] | None:
    if core is None or not hasattr(os, "sched_setaffinity"):
        return None
    return lambda: os.sched_setaffinity(0, {core})


def _has_ended(process_id: int) -> bool:
    """Without taking its exit status away: `wait4` wants that, and what it used."""
    return os.waitid(os.P_PID, process_id, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class _Listener(threading.Thread):
    """Takes the moment of each line as it comes."""

    def __init__(self, process: subprocess.Popen[bytes], began_s: float) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._began_s = began_s
        self.events: list[Event] = []
        self.closed_s = 0.0

    def run(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                at_s = time.perf_counter() - self._began_s
                if line.startswith(b"{"):
                    cpu_s = sum(map(_cpu_s, _tree(self._process.pid)))
                    self.events.append(Event(at_s=at_s, cpu_s=cpu_s, values=json.loads(line)))
        self.closed_s = time.perf_counter() - self._began_s


class _Watch:
    """The peak memory of a process and all that it starts."""

    def __init__(self, process_id: int) -> None:
        self._process_id = process_id
        self.peak_bytes = 0
        self.has_looked = False

    def look(self) -> None:
        tree = _tree(self._process_id)
        sizes = [size for size in map(_pss_bytes, tree) if size]
        highest = [size for size in map(_high_water_bytes, tree) if size]
        if sizes:
            self.has_looked = True
            self.peak_bytes = max(self.peak_bytes, sum(sizes), max(highest, default=0))


def _tree(process_id: int) -> list[int]:
    found = [process_id]
    for parent in found:
        try:
            for task in (_PROC / str(parent) / "task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it has just ended
    return found


def _cpu_s(process_id: int) -> float:
    """Its own seconds, and those of its children that have ended."""
    try:
        fields = (_PROC / str(process_id) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS_PER_S


def _pss_bytes(process_id: int) -> int:
    return _kibibytes(_PROC / str(process_id) / "smaps_rollup", "Pss:")


def _high_water_bytes(process_id: int) -> int:
    return _kibibytes(_PROC / str(process_id) / "status", "VmHWM:")


def _kibibytes(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
