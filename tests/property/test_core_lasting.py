"""Waits that several processes share, for any looks of theirs and a clock that is set once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import example, given
from hypothesis import strategies as st

from runner.core.lasting import (
    PARTS,
    WHOLE_READING,
    Noted,
    Readings,
    first_reading,
    lasting,
    to_note,
)

WHOLE_S = 900.0
START_S = 1_700_000_000.0
ROUNDED_S = 0.1
SECONDS = st.floats(min_value=0, max_value=3 * WHOLE_S)
LOOKS = st.lists(SECONDS, max_size=8)


@dataclass
class World:
    """Time that goes by, a wall clock that may be set, and what the processes note."""

    elapsed_s: float = 0.0
    set_by_s: float = 0.0
    note: Noted | None = None

    def process(self, pauses: list[float]) -> bool:
        """One that looks, and again after each pause, and leaves; True once it has waited it out."""
        steady_s, begun_s = START_S + self.elapsed_s + self.set_by_s, self.elapsed_s
        known = lasting("x", self.note, whole_s=WHOLE_S, now_s=steady_s, wall_s=steady_s)
        for pause_s in (0.0, *pauses):
            self.elapsed_s += pause_s
            now_s = steady_s + self.elapsed_s - begun_s
            if now_s - known.since_s > WHOLE_S:
                return True
            amount_s = to_note(known, whole_s=WHOLE_S, now_s=now_s)
            if amount_s is not None:
                at_s = START_S + self.elapsed_s + self.set_by_s
                self.note = Noted(amount=amount_s, of="x", at_s=at_s)
                known = replace(known, noted_s=amount_s)
        return False


@given(st.lists(st.tuples(SECONDS, LOOKS), max_size=12), st.integers(0, 12), st.floats(-1e8, 1e8))
@example([(60.0, [])] * 12, 3, 86_400.0)
@example([(600.0, [])] * 12, 3, -86_400.0)
@example([(0.0, [300.0, 300.0])] * 4, 2, 86_400.0)
def test_several_processes_wait_no_less_than_one_would(
    processes: list[tuple[float, list[float]]], set_at: int, set_by_s: float
) -> None:
    """Each begins so long after the one before. The clock is set before one of them."""
    world = World()
    for number, (gap_s, pauses) in enumerate(processes):
        world.elapsed_s += gap_s if number else 0.0
        world.set_by_s = set_by_s if number >= set_at else 0.0
        if world.process(pauses):
            assert world.elapsed_s > WHOLE_S - ROUNDED_S
            return


@given(st.floats(1.0, 1e6), st.floats(-1e8, 1e8))
@example(WHOLE_S / PARTS, 0.0)
@example(WHOLE_S / PARTS / 2, 0.0)
def test_looks_that_go_on_come_to_an_end(gap_s: float, set_by_s: float) -> None:
    """Though each process looks once, whatever the clock was set to before the second one."""
    world = World()
    part_s = WHOLE_S / PARTS
    looks = 0
    while not world.process([]):
        world.elapsed_s += gap_s
        world.set_by_s = set_by_s
        looks += 1
        assert looks <= (WHOLE_S + 3 * part_s) / min(gap_s, part_s) + 3


@given(st.floats(0, WHOLE_S / PARTS), st.floats(1.0, WHOLE_S / PARTS))
@example(200.0, 60.0)
def test_two_machines_that_take_turns_wait_no_less_though_their_clocks_differ(
    ahead_s: float, gap_s: float
) -> None:
    world = World()
    while not world.process([]):
        world.elapsed_s += gap_s
        world.set_by_s = ahead_s - world.set_by_s
    assert world.elapsed_s > WHOLE_S - ROUNDED_S


def test_one_process_waits_as_if_it_were_alone() -> None:
    world = World()
    assert not world.process([WHOLE_S / 10] * 10)
    assert World().process([WHOLE_S / 10] * 11)


def test_what_was_noted_of_another_id_counts_nothing() -> None:
    note = Noted(amount=WHOLE_S, of="y", at_s=START_S)
    known = lasting("x", note, whole_s=WHOLE_S, now_s=START_S, wall_s=START_S)
    assert known.since_s == START_S
    readings, _ = first_reading("x", note, weight=WHOLE_READING, pause_s=150, wall_s=START_S + 1e6)
    assert readings.count == WHOLE_READING


def test_readings_of_two_processes_count_where_they_are_far_enough_apart() -> None:
    first, is_news = first_reading("x", None, weight=2, pause_s=150, wall_s=START_S)
    assert (first, is_news) == (Readings(of="x", count=2, withheld=WHOLE_READING), True)
    note = Noted(amount=4, of="x", at_s=START_S)

    def then(after_s: float) -> tuple[int, bool]:
        readings, is_news = first_reading("x", note, weight=2, pause_s=150, wall_s=START_S + after_s)
        return readings.count, is_news

    assert then(150) == (6, True)
    assert then(149) == (4, False), "the note of the one before stays, and its moment with it"
    assert then(-86_400) == (4, True), "the clock was set back: noted anew, or it would count from tomorrow"
