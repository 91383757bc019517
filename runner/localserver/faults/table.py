"""Every kind by its name: the tables of the topics, put together."""

from __future__ import annotations

from collections.abc import Mapping

from runner.localserver.faults import connections, contents, executing, objects, refusing
from runner.localserver.faults.kind import FaultKind

KINDS: Mapping[str, FaultKind] = {
    **refusing.KINDS,
    **connections.KINDS,
    **objects.KINDS,
    **contents.KINDS,
    **executing.KINDS,
}
