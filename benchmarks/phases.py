"""Points of one project's life against the bare parts: planned, collected, run again; and the ledger's size.

The program and the bare parts are measured in turn, so that what slows the machine for a minute slows both.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.blocks import Blocks, bare_answers, bare_plan, best
from benchmarks.measure import Measured
from benchmarks.project import Project, Standin, running_standin
from benchmarks.tables import Table

_CHANGED_EVERY = 100
_MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of a process between two of its events."""

    wall_s: float
    cpu_s: float


def recorded(run: Measured) -> Phase:
    """Plan, render, record, split: from the program's first word to the first byte that it uploads."""
    begin, end = run.first("started"), run.first("upload_progress", "uploaded")
    return Phase(wall_s=end.at_s - begin.at_s, cpu_s=end.cpu_s - begin.cpu_s)


def collected(run: Measured) -> Phase:
    """Download, reconcile, store: from the first look at a batch to the end of the last one."""
    begin, end = run.first("batch_seen"), run.last("batch_done")
    return Phase(wall_s=end.at_s - begin.at_s, cpu_s=end.cpu_s - begin.cpu_s)


def published(run: Measured) -> Phase:
    """Join and write: from the end of the last batch to the end of the run."""
    begin, end = run.last("batch_done"), run.last("finished")
    return Phase(wall_s=end.at_s - begin.at_s, cpu_s=end.cpu_s - begin.cpu_s)


@dataclass(slots=True)
class Life:
    """The tables of one life; `tell` is given each as soon as it is known."""

    folder: Path
    rows: int
    names: frozenset[str]
    tell: Callable[[Table], None]

    def run(self) -> None:
        """Plan, answer, collect, run again, in the order of a project's life."""
        with running_standin(self.folder / "server") as server:
            project = self._planned(server)
            server.answer()
            self._show_ledger(project, "all of it on its way")
            if self.names & {"collect", "rerun", "ledger"}:
                self._collected(project, server)
                self._show_ledger(project, "all of it answered")
            if "rerun" in self.names:
                self._again(project, server)

    # ------------------------------------------------------------ the way out

    def _planned(self, server: Standin) -> Project:
        project = Project.begin(self.folder / "project", self.rows, server)
        if "plan" not in self.names:
            project.submit()
            return project
        before = bare_plan(project.dataset.path, self.folder / "bare", core=0)
        with_one = self._on_one_core(project)
        both = project.submit()
        after = bare_plan(project.dataset.path, self.folder / "bare", core=0)
        self.tell(_plan_table(self.rows, best([before, after]), with_one, both))
        return project

    def _on_one_core(self, project: Project) -> Measured:
        """The same rows held to one core, with a server of their own: nobody answers them."""
        folder = self.folder / "one-core"
        folder.mkdir()
        try:
            with running_standin(folder / "server") as server:
                return project.anew(folder / "project", server).submit(core=0)
        finally:
            shutil.rmtree(folder)

    # ------------------------------------------------------------ the way back

    def _collected(self, project: Project, server: Standin) -> None:
        if "collect" not in self.names:
            project.collect()
            return
        table = Table(
            f"Collect, reconcile, store, join, publish: {self.rows:,} shuffled answers, 1 % errors",
            ("what", "wall s", "rows/s", "CPU s", "peak MB", "of the bare parts", "by CPU"),
        )
        outputs = self._outputs_file()
        bare = [bare_answers(outputs, project.dataset.path, self.folder / "bare", core=None)]
        copy = project.copy(self.folder / "into-csv")
        runs = {"CSV": copy.collect("results.csv"), "Parquet": project.collect()}
        bare.append(bare_answers(outputs, project.dataset.path, self.folder / "bare", core=None))
        shutil.rmtree(copy.folder)
        outputs.unlink()
        fastest = best(bare)
        fastest.show(table)
        stored, joined = fastest.only("copy", "decode", "update"), fastest.only("join")
        for name, run in reversed(runs.items()):
            self._add_phase(table, f"collect, reconcile, store (before {name})", collected(run), run, stored)
            self._add_phase(table, f"join, publish {name}", published(run), run, joined)
        table.note("Peaks are those of the whole run, planning included.")
        self.tell(table)

    def _outputs_file(self) -> Path:
        """Every answer in one file, for the bare parts."""
        target = self.folder / "outputs.jsonl"
        with target.open("wb") as whole:
            for path in sorted((self.folder / "server").iterdir()):
                with path.open("rb") as part:
                    if part.read(9) == b'{"id":"ba' and b'"response":{' in part.readline():
                        part.seek(0)
                        shutil.copyfileobj(part, whole, 1 << 20)
        return target

    def _add_phase(self, table: Table, what: str, phase: Phase, run: Measured, bare: Blocks) -> None:
        shares = bare.shares(self.rows, phase.wall_s, phase.cpu_s)
        table.add(what, phase.wall_s, self.rows / phase.wall_s, phase.cpu_s, run.peak_mb, *shares)

    # ------------------------------------------------------------ again

    def _again(self, project: Project, server: Standin) -> None:
        table = Table(
            f"The same command again, {self.rows:,} rows",
            ("what", "wall s", "CPU s", "peak MB", "at most s", "at most MB"),
        )
        untouched = min((project.again() for _ in range(3)), key=lambda run: run.wall_s)
        table.add("nothing changed", untouched.wall_s, untouched.cpu_s, untouched.peak_mb, "1", "100")
        project.touch()
        touched = project.again()
        table.add("dataset touched, equal", touched.wall_s, touched.cpu_s, touched.peak_mb, "3", "250")
        project.save_template_again()
        saved = project.again()
        table.add("template saved again", saved.wall_s, saved.cpu_s, saved.peak_mb, "12", "400")
        changed = project.change_rows(_CHANGED_EVERY).changed
        sent = project.submit()
        table.add("1 % changed, until sent", sent.wall_s, sent.cpu_s, sent.peak_mb, "5", "400")
        server.answer()
        rest = project.collect()
        table.add("... and collected, published", rest.wall_s, rest.cpu_s, rest.peak_mb, "", "400")
        requests = sent.last("planned").values["requests_to_send"]
        table.note(
            f"{changed:,} rows were changed, {requests:,} requests sent. The limits are for 1,000,000 rows."
        )
        self.tell(table)

    # ------------------------------------------------------------ size

    def _show_ledger(self, project: Project, when: str) -> None:
        if "ledger" not in self.names:
            return
        size_bytes = project.ledger_bytes
        table = Table(
            f"The ledger, {self.rows:,} requests, {when}", ("MB", "bytes a request", "at most bytes")
        )
        table.add(size_bytes / _MB, size_bytes / self.rows, "150")
        self.tell(table)


def _plan_table(rows: int, bare: Blocks, one: Measured, both: Measured) -> Table:
    table = Table(
        f"Plan, render, record, split: {rows:,} rows of about 300 bytes",
        ("what", "wall s", "rows/s", "CPU s", "peak MB", "of the bare parts", "at least", "by CPU"),
    )
    bare.show(table)
    wall_s, cpu_s = sum(bare.seconds.values()), sum(bare.cpu_seconds.values())
    table.add("bare parts, one after another, one core", wall_s, rows / wall_s, cpu_s)
    for what, run, least in (("the program, one core", one, "0.6"), ("the program, both cores", both, "0.9")):
        phase = recorded(run)
        share, by_cpu = bare.shares(rows, phase.wall_s, phase.cpu_s)
        table.add(what, phase.wall_s, rows / phase.wall_s, phase.cpu_s, run.peak_mb, share, least, by_cpu)
    return table
