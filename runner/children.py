"""Processes that this program starts for itself: this interpreter, a module of ours, and a socket to it.

From the environment they get what Python needs, and no key.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

_KEPT_VARIABLES = (
    *("PATH", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("PYTHONHOME", "PYTHONUTF8", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
)
"""What Python itself may need. Everything else stays here: among it are keys."""


def start_child(module: str, descriptor: int, *, complaints: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """A process that runs the module, told the number of a descriptor that it inherits. Raises OSError.

    `complaints`: where its stderr goes. Ctrl-C is for this process alone.
    """
    return subprocess.Popen(  # noqa: S603 - this interpreter, a module of ours
        [sys.executable, "-P", "-m", module, str(descriptor)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=complaints,
        pass_fds=[descriptor],
        env=_bare_environment(),
        process_group=0,
    )


def _bare_environment() -> dict[str, str]:
    """For a child: it finds the same modules, and no key."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    paths = [path or str(Path.cwd()) for path in sys.path]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}
