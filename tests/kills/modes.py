"""The server's moods: which faults are armed before a scenario begins, drawn with the scenario's dice."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

Fault = dict[str, Any]
Mood = Callable[..., list[Fault]]
"""Takes the dice and `has_fence`: whether the profile of the server has one."""
CREATE, UPLOAD, CONTENT = "POST /v1/batches", "POST /v1/files", "GET /v1/files/*/content"
LONGEST_LATE_S = 0.6
"""So long after a create was given up it may still take effect."""


def _clean(_dice: random.Random, **_: bool) -> list[Fault]:
    return []


def _lost_create(dice: random.Random, **_: bool) -> list[Fault]:
    """The batch is created; its reply never comes."""
    return [{"kind": "lost-reply", "route": CREATE, "nth": dice.randint(1, 2), "times": dice.randint(1, 2)}]


def _lost_upload(dice: random.Random, **_: bool) -> list[Fault]:
    """The file is stored; its reply never comes."""
    return [{"kind": "lost-reply", "route": UPLOAD, "nth": dice.randint(1, 2), "times": dice.randint(1, 2)}]


def _late_create(dice: random.Random, **_: bool) -> list[Fault]:
    """The client has given up when the batch is created: within the settle time, or long after it."""
    params = {"seconds": dice.uniform(0.01, LONGEST_LATE_S)}
    return [{"kind": "late-effect", "route": CREATE, "nth": dice.randint(1, 2), "params": params}]


def _error_after(dice: random.Random, **_: bool) -> list[Fault]:
    """The batch is created; the reply is an error of the server or of a gateway."""
    params = {"status": dice.choice((500, 502, 503, 504))}
    return [{"kind": "error-after-effect", "route": CREATE, "nth": dice.randint(1, 2), "params": params}]


def _never_arrived(dice: random.Random, *, has_fence: bool) -> list[Fault]:
    """The connection is reset; nothing has happened, which nobody can know. Without a fence that shard is
    held, so it is one at most."""
    times = dice.randint(1, 2) if has_fence else 1
    return [{"kind": "reset", "route": CREATE, "nth": dice.randint(1, 2), "times": times}]


def _cut_download(dice: random.Random, **_: bool) -> list[Fault]:
    """Downloads break off: before the first line, inside one, or after some."""
    params = {"after_bytes": dice.choice((0, 100, 450, 900, 1300))}
    return [
        {"kind": "abort-download", "nth": dice.randint(1, 2), "times": dice.randint(1, 3), "params": params}
    ]


def _replica_lag(dice: random.Random, **_: bool) -> list[Fault]:
    """Every read sees the server as it was; the settle time may be shorter than that."""
    return [{"kind": "replica-lag", "times": 0, "params": {"seconds": dice.uniform(0.02, 0.2)}}]


_SINGLE: Mapping[str, Mood] = {
    "clean": _clean,
    "lost-create": _lost_create,
    "lost-upload": _lost_upload,
    "late-create": _late_create,
    "error-after": _error_after,
    "never-arrived": _never_arrived,
    "cut-download": _cut_download,
    "replica-lag": _replica_lag,
}


def _mix(dice: random.Random, *, has_fence: bool) -> list[Fault]:
    """Three of them at once."""
    chosen = dice.sample([name for name in _SINGLE if name != "clean"], 3)
    return [fault for name in chosen for fault in _SINGLE[name](dice, has_fence=has_fence)]


MODES: Mapping[str, Mood] = {**_SINGLE, "mix": _mix}
