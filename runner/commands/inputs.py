"""Whether the input files hold what a run has read, as cheaply as can be: by their state, else by content.

The rule: a state (size, times, inode) proves that a file is the same only where it had been left alone for
longer than a tick of the clock when it was seen. Where that proves nothing, the bytes are read and their
digest is compared: a file that was touched, copied or written anew with the same bytes is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from runner.commands.options import Narrowing
from runner.commands.workplace import Workplace
from runner.core.wire import JsonError, decode_json, encode_json
from runner.dataset import InputsState, contents_of_inputs, fingerprint_of_inputs
from runner.errors import InputError

_CLOCK_TICK_NS = 2_000_000_000


def inputs_as_json(
    state: InputsState,
    contents: str,
    times: Mapping[str, str] | None = None,
    *,
    narrowing: Narrowing | None = None,
) -> str:
    """The state and the digest of the input files, as a run records them; the moments it read; and how it
    was narrowed to some of the rows."""
    record: dict[str, Any] = {"seen_at_ns": state.seen_at_ns, "files": _files(state), "contents": contents}
    if times:
        record["times"] = dict(times)
    if narrowing is not None and not narrowing.takes_all:
        record["narrowed"] = asdict(narrowing)
    return encode_json(record).decode()


def narrowing_recorded(recorded: str | None) -> Narrowing | None:
    """How a run was narrowed. None where it was, and an older version of the program recorded no more."""
    found = _decoded(recorded).get("narrowed")
    if not found:
        return Narrowing()
    return Narrowing(**found) if isinstance(found, dict) else None


def contents_recorded(recorded: str | None) -> str | None:
    """The digest of the bytes that a run has read; None where it is not known."""
    return str(_decoded(recorded).get("contents", "")) or None


def same_inputs(workplace: Workplace, recorded: str | None) -> str | None:
    """What to record of the input files now, where they hold what they held then; None where not."""
    then = _decoded(recorded)
    try:
        now = fingerprint_of_inputs(workplace.manifest)
        if _is_proven(then, now):
            return recorded
        if not _may_be_equal(then, now):
            return None
        if contents_of_inputs(workplace.manifest) == then["contents"]:
            return inputs_as_json(now, then["contents"])
    except InputError:
        pass  # whoever reads them says what is wrong
    return None


def _may_be_equal(then: dict[str, Any], now: InputsState) -> bool:
    """Whether the files may hold the same bytes in the same order; those of a compressed one may take another
    size."""
    if not then.get("contents") or len(then["files"]) != len(now.files):
        return False
    return all(
        one.size_bytes == size_bytes or one.path.lower().endswith(".gz")
        for one, (_, size_bytes, *_) in zip(now.files, then["files"], strict=True)
    )


def _is_proven(then: dict[str, Any], now: InputsState) -> bool:
    if not then or then.get("files") != _files(now):
        return False
    quiet_since_ns = then["seen_at_ns"] - _CLOCK_TICK_NS
    return all(max(one.mtime_ns, one.ctime_ns) < quiet_since_ns for one in now.files)


def _files(state: InputsState) -> list[list[str | int]]:
    return [[one.path, one.size_bytes, one.mtime_ns, one.inode, one.ctime_ns] for one in state.files]


def _decoded(recorded: str | None) -> dict[str, Any]:
    try:
        found = decode_json(recorded or "")
    except JsonError:
        return {}
    return found if isinstance(found, dict) else {}
