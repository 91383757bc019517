"""The git commit of a project, for the record of a run; None where there is none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def git_commit(project: Path) -> str | None:
    """The commit checked out in the project's folder."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(project), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
