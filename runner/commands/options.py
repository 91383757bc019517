"""What the commands are asked to do, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runner.commands.narrowing import Narrowing


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestOptions:
    """Which manifest, and how it is bent: `--set path=value`, `--profile name`."""

    path: str
    set_values: tuple[str, ...] = ()
    profile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How far to go. `wait_s`: give up waiting after so many seconds (None: until done).

    `refresh`: ask everything again. `retry_failed`: ask failed rows again, whatever their cause.
    `expected_digest`: carry out the plan with this digest or none.
    `workers`: processes that render (None: one for each processor).
    """

    manifest: ManifestOptions
    detach: bool = False
    wait_s: float | None = None
    narrowing: Narrowing = field(default_factory=Narrowing)
    refresh: bool = False
    retry_failed: bool = False
    expected_digest: str | None = None
    workers: int | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
