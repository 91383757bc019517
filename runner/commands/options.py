"""What the commands are asked to do, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestOptions:
    """Which manifest, and how it is bent: `--set path=value`, `--profile name`."""

    path: str
    set_values: tuple[str, ...] = ()
    profile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How far to go. `wait_s`: give up waiting after so many seconds (None: until done).

    `workers`: processes that render (None: one for each processor).
    """

    manifest: ManifestOptions
    detach: bool = False
    wait_s: float | None = None
    limit: int | None = None
    workers: int | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
