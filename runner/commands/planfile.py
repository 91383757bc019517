"""Plans as files: `run plan -o plan.json` writes one, `run apply plan.json` carries it out.

The file says what the plan rests on (digests of manifest, template, dataset, requests, and the run before
it), so that applying it sends those requests or none. It holds no prompt and no answer.

A plan is carried out once. Applied again, it has nothing left to send: then the run only collects what is
on its way and writes the table, as `run` does. Where it would send anything that was not planned just so,
it refuses.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from runner.commands.options import ExpectedPlan, ManifestOptions, Narrowing, Only, PlanDigests, RunOptions
from runner.commands.sharding import sync_folder
from runner.core.planning import Plan
from runner.core.wire import JsonError, decode_json, encode_json
from runner.errors import InputError, Mistake
from runner.version import __version__

FORMAT_VERSION = 1
_MAX_FILE_BYTES = 1 << 20


# ---------------------------------------------------------------- writing


def check_target(path: Path) -> None:
    """Before the work: a plan may take an earlier plan's place and no other file's. Raises InputError."""
    if path.is_dir():
        raise _refused(path, "a folder", "name a file, such as plan.json")
    if not path.parent.is_dir():
        raise _refused(path, f"there is no folder `{path.parent}`", "")
    if path.exists() and not isinstance(_document(path), dict):
        raise _refused(path, "this file is not a plan, and is left as it is", "choose another name")


def write_plan(
    path: Path, plan: Plan, digests: PlanDigests, options: RunOptions, warnings: Sequence[Mistake]
) -> None:
    """The plan and all that it takes to make it again; the whole file or none. Raises InputError."""
    check_target(path)
    manifest = os.path.relpath(Path(options.manifest.path).absolute(), path.absolute().parent)
    document = {
        **plan.as_json(),
        "warnings": [str(warning) for warning in warnings],
        "digest": digests.whole,
        "digests": asdict(digests),
        "options": {
            "manifest": manifest,
            "set": list(options.manifest.set_values),
            "profile": options.manifest.profile,
            "isolated": options.manifest.is_isolated,
            "allowed_paths": list(options.manifest.allowed_paths),
            "narrowing": asdict(options.narrowing),
            "refresh": options.refresh,
        },
        "created_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "version": __version__,
    }
    try:
        _replace(path, encode_json(document) + b"\n")
    except OSError as error:
        raise _refused(path, f"can't be written: {error.strerror}", "") from error


def _replace(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


# ---------------------------------------------------------------- reading


def read_plan(path: Path, environ: Mapping[str, str]) -> RunOptions:
    """What to run, and the plan that it must come to. Raises InputError for a file that is no plan."""
    if not path.is_file():
        raise _refused(path, "no such file", "`run plan MANIFEST -o plan.json` makes one")
    document = _document(path)
    if document is None:
        raise _refused(path, "this file is not a plan", "`run plan MANIFEST -o plan.json` makes one")
    if document["format_version"] != FORMAT_VERSION:
        what = f"a plan of format {document['format_version']}; this version reads {FORMAT_VERSION}"
        raise _refused(path, what, "make it again with this version")
    try:
        return _options(path, document, environ)
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(path, f"the plan is damaged: {error}", "make it again") from error


def _document(path: Path) -> dict[str, Any] | None:
    """The file's object if it is a plan's, else None."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            return None
        document = decode_json(path.read_bytes())
    except (OSError, JsonError):
        return None
    marks = ("format_version", "digest", "digests", "options")
    return document if isinstance(document, dict) and all(mark in document for mark in marks) else None


def _options(path: Path, document: Mapping[str, Any], environ: Mapping[str, str]) -> RunOptions:
    digests = PlanDigests(
        **{field.name: _text(document["digests"], field.name) for field in fields(PlanDigests)}
    )
    if digests.whole != document["digest"]:
        raise ValueError("its digests don't fit together")
    asked = document["options"]
    manifest = os.path.normpath(path.parent / _text(asked, "manifest"))
    return RunOptions(
        manifest=ManifestOptions(
            path=manifest,
            set_values=tuple(_text({"set": value}, "set") for value in asked["set"]),
            profile=None if asked["profile"] is None else _text(asked, "profile"),
            is_isolated=bool(asked.get("isolated", False)),
            allowed_paths=tuple(_text({"path": one}, "path") for one in asked.get("allowed_paths", ())),
        ),
        narrowing=_narrowing(asked["narrowing"]),
        refresh=bool(asked["refresh"]),
        expected=ExpectedPlan(path=str(path), digests=digests),
        environ=environ,
    )


def _narrowing(asked: Mapping[str, Any]) -> Narrowing:
    for name in ("limit", "sample", "seed"):
        if not isinstance(asked[name], int | None):
            raise TypeError(f"{name} is not a number")
    if asked["only"] not in (None, *get_args(Only)):
        raise ValueError("unknown `only`")
    return Narrowing(
        limit=asked["limit"],
        sample=asked["sample"],
        seed=asked["seed"] or 0,
        where=None if asked["where"] is None else _text(asked, "where"),
        only=asked["only"],
    )


def _text(values: Mapping[str, Any], name: str) -> str:
    if not isinstance(values[name], str):
        raise TypeError(f"{name} is not text")
    return str(values[name])


def _refused(path: Path, what: str, hint: str) -> InputError:
    return InputError([Mistake(where=str(path), what=what, hint=hint)])


# ---------------------------------------------------------------- that plan or none

_MOVED = {
    "manifest": "the manifest is another one (or a variable or profile in it)",
    "template": "the template is another one",
    "dataset": "the dataset's rows are others",
    "last_run": "another run of the manifest has taken place",
    "requests": "the requests to send are others than planned",
}
_INPUTS = ("manifest", "template", "dataset")


def refuse_if_moved(expected: ExpectedPlan, found: PlanDigests, manifest: str) -> None:
    """Return where the plan still stands, or where nothing of it is left to be sent. Raises InputError
    with all that moved."""
    was, now = asdict(expected.digests), asdict(found)
    moved = [name for name in _MOVED if was[name] != now[name]]
    if not moved or (not now["requests"] and not set(moved) & set(_INPUTS)):
        return
    raise InputError(
        [Mistake(where=expected.path, what=_MOVED[name]) for name in moved],
        next_step=f"look at it again (`run plan {manifest} -o {expected.path}`), then apply that plan",
    )
