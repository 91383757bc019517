"""What a kind of fault is: where it acts, on which requests, with which parameters, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Point(Enum):
    """Where the server asks whether to misbehave. The package's docstring says what happens at each."""

    DEED = "deed"
    LATE = "late"
    BEFORE = "before"
    ARRIVE = "arrive"
    AFTER = "after"
    OBJECT = "object"
    LISTING = "listing"
    CONTENT = "content"
    WIRE = "wire"
    READ = "read"
    START = "start"
    ANSWER = "answer"
    RECORD = "record"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    """One kind. `params` are the parameters with their defaults, `route` the requests it is meant for.

    `act` is what the acting place of the point calls; what it takes and gives is said where the point's
    kinds are. `ignores` are query parameters that the server overlooks while the fault acts.
    """

    point: Point
    summary: str
    route: str = "*"
    params: Mapping[str, Any] = field(default_factory=dict)
    act: Callable[..., Any] | None = None
    ignores: tuple[str, ...] = ()


CREATE = "POST /v1/batches"
UPLOAD = "POST /v1/files"
ANY = "* /v1/*"
BATCH = "GET /v1/batches/*"
BATCHES = "GET /v1/batches"
CONTENT = "GET /v1/files/*/content"
