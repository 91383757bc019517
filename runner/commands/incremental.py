"""Only rows whose data is another than in the last run are rendered, where nothing else can change a request.

Theory
------
A request is a function of the row, the template, the params and what else the manifest says, carried out by
this version of the program. Where all but the row is what it was in the last run, a row whose place holds the
same key and the same values, in the columns that the template reads, has the fingerprint that the ledger
knows of it. The two snapshots are laid side by side to see which rows are others. Templates that read the
clock are rendered.

Where many rows differ, all are rendered: that is done by more processes than this one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner.commands.comparing import Comparison
from runner.commands.documents import document_of
from runner.commands.keeping import Keeper
from runner.commands.rendering import Renderer, RenderSource
from runner.commands.workplace import Workplace
from runner.dataset import Snapshot, differing_places, range_rows
from runner.ledger import RunRecord
from runner.prompt import Prompt
from runner.version import __version__

_MOST_ROWS = 1_000
_MOST_SHARE = 10


def rows_that_differ(
    workplace: Workplace, previous: RunRecord, snapshot: Snapshot, prompt: Prompt
) -> bytearray | None:
    """One byte for each row: 0 where it asks what it asked in the last run. None: all are to be rendered."""
    is_as_it_was = (
        previous.version == __version__
        and previous.template_digest == prompt.digest()
        and previous.document == document_of(workplace.manifest).decode()
        and not prompt.times_read([column.name for column in snapshot.columns])
    )
    if not is_as_it_was:
        return None
    differs = differing_places(
        snapshot.path,
        str(workplace.place.folder / previous.snapshot),
        rows=snapshot.rows,
        columns=prompt.columns(),
        scratch=Path(snapshot.path).parent,
    )
    most = max(_MOST_ROWS, snapshot.rows // _MOST_SHARE)
    return differs if differs is not None and differs.count(1) <= most else None


def compare_what_differs(
    source: RenderSource,
    rows: int,
    differs: bytearray,
    *,
    keeper: Keeper,
    comparison: Comparison,
    check_stop: Callable[[], None],
    tell: Callable[[], None],
) -> None:
    """Every row in dataset order: rendered and compared where it differs or is not settled, else kept."""
    renderer: Renderer | None = None
    step = range_rows(source.snapshot, rows)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        positions = keeper.others_in(start, stop, differs)
        rendered = []
        if positions:
            renderer = renderer or Renderer(source)
            rendered = renderer.render_only(start, stop, positions)
        comparison.add_differing(start, stop, rendered)
        check_stop()
        tell()
