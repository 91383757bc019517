"""How ranges go from hand to hand, without a process: what a pool gives to whom, and in which order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, ClassVar

from runner.commands.work import Doing, Order, Words, Work
from runner.commands.worker_pool import WorkerPool


class Numbers(Work[int]):
    """Makes the numbers of a range."""

    words: ClassVar[Words] = Words(does="counts", things="numbers", done="counted", next_step="")

    def begin(self) -> Doing[int]:
        def do(order: Order) -> Iterator[int]:
            yield from range(order.start, order.stop)

        return do

    def end_of(self, piece: int) -> int:
        return piece + 1

    def pack(self, piece: int) -> tuple[Any, bytes]:
        return piece, b""

    def unpack(self, values: Any, many: bytes) -> int:
        number: int = values
        return number


def pool_of(*orders: Order, workers: int = 0, here: Doing[int] | None = None) -> WorkerPool[int]:
    """One of which no thread runs."""
    return WorkerPool(Numbers(), orders, workers, here=here)


def test_what_a_worker_left_of_a_range_is_read_before_the_rest_of_it() -> None:
    for here in (None, Numbers().begin()):
        pool = pool_of(Order(0, 3), Order(3, 6), here=here)
        pool._begin()
        second = pool._begin()
        assert second is not None
        second.is_taken, second.next = True, 5
        second.pieces += [(0, 3), (0, 4)]
        pool._give_back(deque([second]))
        assert list(pool.pieces(lambda: None, lambda _: None)) == [0, 1, 2, 3, 4, 5]


def test_a_worker_takes_no_range_before_those_that_it_holds() -> None:
    pool = pool_of(Order(0, 1), Order(1, 2), Order(2, 3), workers=1)
    given_back, held, free = pool._begin(), pool._begin(), pool._begin()
    assert held is not None
    held.is_taken = True
    assert pool._next_range([held]) is free
    assert pool._next_range([held]) is None
    assert pool._next_range([]) is given_back
