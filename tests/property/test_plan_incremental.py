"""A plan that renders only the rows that differ is the plan that renders all of them."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.commands import incremental, planning
from runner.commands.moments import Silent
from runner.commands.options import ManifestOptions, RunOptions
from runner.commands.planning import Prepared, prepared
from runner.commands.recording import commit
from runner.commands.workplace import Workplace, open_workplace
from runner.core.model import Cause, Message, Outcome, Status
from runner.ledger import Ledger
from runner.prompt.compiling import CompiledPrompt
from tests.contract.ledger_factories import Project, asked, failed, succeeded
from tests.project_factory import make_project
from tests.property.test_ledger_properties import WHAT_A_PLAN_LEAVES

pytestmark = pytest.mark.usefixtures("lent_duckdb")

TEMPLATE = "{% block system %}Be brief.{% endblock %}{% block user %}{{ text | upper }}{% endblock %}"
Rows = list[tuple[str, str, str]]
"""Key, text, and a note that the template does not read. A row without a text can't be sent."""
TEXTS = st.sampled_from(["a", "b", "c", "d", ""])
NOTES = st.sampled_from(["x", "y"])
ROWS = st.lists(st.tuples(TEXTS, NOTES), min_size=1, max_size=8)
ENDS = st.sampled_from(
    [
        *[succeeded()] * 4,
        succeeded(status=Status.TRUNCATED),
        failed(),
        failed(retryable=False),
        None,
    ]
)
EDITS = st.one_of(
    st.none(),
    st.none(),
    st.tuples(st.just("text"), TEXTS),
    st.tuples(st.just("note"), NOTES),
    st.tuples(st.sampled_from(["key", "new", "gone"]), TEXTS),
)


@dataclass(frozen=True)
class Found:
    """What a plan said, and what it left in the ledger."""

    said: tuple[Any, ...]
    left: list[list[tuple[Any, ...]]]
    rendered: list[str]
    """Texts of the rows that were rendered."""


@settings(max_examples=12, deadline=None)
@example(
    before=[("a", "x"), ("b", "x"), ("a", "x"), ("", "x")],
    ends=[succeeded(), failed(retryable=False), *[succeeded()] * 6],
    edits=[("text", "b"), None, None, ("note", "y"), *[None] * 5],
    range_rows=2,
)
@given(
    before=ROWS,
    ends=st.lists(ENDS, min_size=8, max_size=8),
    edits=st.lists(EDITS, min_size=9, max_size=9),
    range_rows=st.integers(1, 9),
)
def test_what_differs_is_planned_and_recorded_as_if_all_were_rendered(
    before: list[tuple[str, str]],
    ends: list[Outcome | None],
    edits: list[tuple[str, str] | None],
    range_rows: int,
) -> None:
    """Reasons, digests, causes and counts too. Texts are few, so that rows share requests."""
    then = [(f"k{number}", text, note) for number, (text, note) in enumerate(before)]
    now = _edited(then, edits)
    with (
        tempfile.TemporaryDirectory() as name,
        patch.object(incremental, "range_rows", lambda *_: range_rows),
    ):
        folder = Path(name) / "project"
        _begin(folder, then, ends)
        _write(folder, now)
        of_all = _planned_again(folder, Path(name) / "all", renders_all=True)
        of_some = _planned_again(folder, Path(name) / "some", renders_all=False)
    assert sorted(of_some.rendered) == sorted(_wanted(then, now, ends))
    assert of_all.rendered == [text for _, text, _ in now]
    assert (of_some.said, of_some.left) == (of_all.said, of_all.left)


def _wanted(then: Rows, now: Rows, ends: list[Outcome | None]) -> list[str]:
    """Texts of the rows that have to be rendered: those with another key or text at their place, those
    without a request, and those whose request is sent again."""
    retried = {text for text, end in zip(_requests(then), ends, strict=False) if end and end.retryable}
    return [
        text
        for place, (key, text, _) in enumerate(now)
        if place >= len(then) or (key, text) != then[place][:2] or not text or text in retried
    ]


def _requests(rows: Rows) -> list[str]:
    """The texts of the requests, in the order of their lines."""
    return list(dict.fromkeys(text for _, text, _ in rows if text))


def _edited(then: Rows, edits: list[tuple[str, str] | None]) -> Rows:
    now: Rows = []
    for number, edit in enumerate(edits[: len(then)]):
        key, text, note = then[number]
        what, value = edit or ("", "")
        if what == "new":
            now.append((f"new{number}", value, note))
        if what == "text":
            text = value
        elif what == "note":
            note = value
        elif what == "key":
            key = f"other{number}"
        if what != "gone":
            now.append((key, text, note))
    last = edits[-1]
    if (last is not None and last[0] == "new") or not now:
        now.append(("last", "a", "x"))
    return now


def _begin(folder: Path, rows: Rows, ends: list[Outcome | None]) -> None:
    """A run of these rows: every request is sent, and ends as it says (None: still on its way)."""
    make_project(folder, rows=_dicts(rows), template=TEMPLATE, allow_failures="100%", retry={"attempts": 3})
    (folder / ".runner").mkdir(mode=0o700)
    workplace = _workplace(folder)
    with Ledger.open(workplace.place) as ledger:
        manifest_id = ledger.ensure_manifest(workplace.manifest.path, "test")
        with _prepared(workplace, ledger) as plan:
            commit(workplace, ledger, plan, manifest_id=manifest_id, **_COMMIT)
        project = Project(ledger, manifest_id)
        for shard in ledger.open_submissions(manifest_id):
            outcomes = zip(range(shard.requests), ends, strict=False)
            project.answer(project.send(shard), [(line, end) for line, end in outcomes if end is not None])


_COMMIT: dict[str, Any] = {"uid": "1" * 32, "reporter": Silent()}


def _workplace(folder: Path) -> Workplace:
    return open_workplace(ManifestOptions(path=str(folder / "manifest.yaml")), {})


def _prepared(workplace: Workplace, ledger: Ledger) -> AbstractContextManager[Prepared]:
    options = RunOptions(manifest=ManifestOptions(path=workplace.manifest.path), workers=1)
    return prepared(workplace, ledger, options, write_shards=True, reporter=Silent(), check_stop=lambda: None)


def _write(folder: Path, rows: Rows) -> None:
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "note"])
        writer.writeheader()
        writer.writerows(_dicts(rows))


def _dicts(rows: Rows) -> list[dict[str, str]]:
    return [{"id": key, "text": text, "note": note} for key, text, note in rows]


def _planned_again(project: Path, folder: Path, *, renders_all: bool) -> Found:
    """The plan of a copy of the project, and what it leaves."""
    shutil.copytree(project, folder)
    workplace = _workplace(folder)
    rendered: list[str] = []
    render = CompiledPrompt.render

    def noted(prompt: CompiledPrompt, row: Mapping[str, Any]) -> tuple[Message, ...] | Cause:
        rendered.append(row["text"] or "")
        return render(prompt, row)

    all_of_them = (
        patch.object(planning, "rows_that_differ", lambda *_: None) if renders_all else nullcontext()
    )
    with Ledger.open(workplace.place) as ledger, patch.object(CompiledPrompt, "render", noted), all_of_them:
        manifest_id = ledger.ensure_manifest(workplace.manifest.path, "test")
        with _prepared(workplace, ledger) as plan:
            counts, changed = plan.staging.counts(), plan.staging.changed(9)
            commit(workplace, ledger, plan, manifest_id=manifest_id, **_COMMIT | {"uid": "2" * 32})
        left = [asked(ledger.place, query) for query in WHAT_A_PLAN_LEAVES]
    said = (plan.plan, plan.digests.requests, {word: count for word, count in counts.items() if count})
    return Found(said=(*said, changed, plan.causes), left=left, rendered=rendered)
