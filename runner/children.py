"""What processes that this program starts for itself get from its environment: what Python needs, no key."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_KEPT_VARIABLES = (
    *("PATH", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("PYTHONHOME", "PYTHONUTF8", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
)
"""What Python itself may need. Everything else stays here: among it are keys."""


def bare_environment() -> dict[str, str]:
    """For a child: it finds the same modules, and no key."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    paths = [path or str(Path.cwd()) for path in sys.path]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}
