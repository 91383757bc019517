"""Only rows whose data is another than in the last run are rendered, where nothing else can change a request.

Theory
------
A request is a function of the row, the template, the params and what else the manifest says, carried out by
this version of the program. Where all but the row is what it was in the last run, a row whose place holds the
same key and the same values, in the columns that the template reads, has the fingerprint that the ledger
knows of it. The two snapshots are laid side by side, once: the rows that are others come out of it as a file
of their own, and are read from there. Templates that read the clock are rendered.

A row that does not differ is read and rendered only where its request is to be sent, or where it has none.

Where many rows differ, all are rendered: that is done by more processes than this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from operator import attrgetter
from pathlib import Path

from runner.commands.comparing import Comparison
from runner.commands.documents import document_of
from runner.commands.keeping import Keeper
from runner.commands.rendering import Rendered, Renderer, RenderSource
from runner.commands.workplace import Workplace
from runner.dataset import Differing, Snapshot, differing_places, range_rows
from runner.ledger import RunRecord
from runner.prompt import Prompt
from runner.version import __version__

_MOST_ROWS = 1_000
_MOST_SHARE = 10
_position = attrgetter("position")


def rows_that_differ(
    workplace: Workplace, previous: RunRecord, snapshot: Snapshot, prompt: Prompt
) -> Differing | None:
    """The rows that may ask another thing than in the last run. None: all are to be rendered."""
    is_as_it_was = (
        previous.version == __version__
        and previous.template_digest == prompt.digest()
        and previous.document == document_of(workplace.manifest).decode()
        and not prompt.times_read([column.name for column in snapshot.columns])
    )
    if not is_as_it_was:
        return None
    return differing_places(
        snapshot.path,
        str(workplace.place.folder / previous.snapshot),
        rows=snapshot.rows,
        columns=prompt.columns(),
        most=max(_MOST_ROWS, snapshot.rows // _MOST_SHARE),
        scratch=Path(snapshot.path).parent,
    )


def compare_what_differs(
    source: RenderSource,
    rows: int,
    differing: Differing,
    *,
    keeper: Keeper,
    comparison: Comparison,
    check_stop: Callable[[], None],
    tell: Callable[[], None],
) -> None:
    """Every row in dataset order: rendered and compared where it differs or is to be sent, else kept."""
    asker = _Asker(source, rows, differing)
    step = range_rows(source.snapshot, rows)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        others = keeper.keep_settled(start, stop, differing.places)
        wanted = _wanted(others, differing.places, keeper, comparison)
        comparison.add_differing(start, stop, asker.rendered(start, stop, wanted))
        check_stop()
        tell()


def _wanted(others: list[int], differs: bytearray, keeper: Keeper, comparison: Comparison) -> list[int]:
    """Of these places keep the rows that do not differ and need nothing; gives the rest."""
    if not others:
        return []
    same = {position for position in others if not differs[position]}
    kept = keeper.keep_idle(keeper.last_rows_at(others), same, comparison.standing_of)
    return [position for position in others if position not in kept]


class _Asker:
    """Renders what is not kept, range after range."""

    def __init__(self, source: RenderSource, rows: int, differing: Differing) -> None:
        self._source = source
        self._rows = rows
        self._differing = differing
        self._renderer: Renderer | None = None
        self._copied: Iterator[Rendered] = iter(())

    def rendered(self, start: int, stop: int, positions: list[int]) -> list[Rendered]:
        """The rows of [start, stop) at these positions, in order: all that differ are among them."""
        if not positions:
            return []
        if self._renderer is None:
            self._renderer = Renderer(self._source)
            self._copied = self._renderer.render_copied(self._differing.path, self._rows)
        differs = self._differing.places
        found = list(islice(self._copied, differs.count(1, start, stop)))
        if again := [position for position in positions if not differs[position]]:
            found = sorted([*found, *self._renderer.render_only(start, stop, again)], key=_position)
        if [row.position for row in found] != positions:
            raise AssertionError(f"of the rows {start} to {stop - 1} others were rendered than were wanted")
        return found
