from __future__ import annotations

import _thread
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch

from medseg3d.data.ahead import map_ahead


def test_a_slow_item_holds_up_no_other():
    done = threading.Event()

    def work(item):
        if item == 0:
            assert done.wait(60)  # for one that comes after the threads' first items
        if item == 3:
            done.set()
        return 10 * item

    assert list(map_ahead(work, range(6), workers=2)) == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_as_many_threads_work_as_were_asked_for(workers):
    meeting = threading.Barrier(max(1, workers), timeout=60)

    def work(item):
        meeting.wait()  # fewer would break the barrier
        return threading.get_ident()

    found = set(map_ahead(work, range(6), workers))
    assert found == {threading.get_ident()} if workers == 0 else len(found) == workers


def test_threads_share_those_of_torch_and_leave_them_as_they_were():
    torch.set_num_threads(4)
    assert set(map_ahead(lambda item: torch.get_num_threads(), range(3), workers=2)) == {2}
    new = ThreadPoolExecutor(1).submit(torch.get_num_threads).result()
    assert (torch.get_num_threads(), new) == (4, 4)


def test_no_more_than_twice_the_workers_are_begun():
    begun = []
    with closing(map_ahead(begun.append, range(100), workers=2)) as results:
        next(results)
    assert len(begun) <= 4


def test_a_failure_is_raised_in_its_turn_and_ends_the_work():
    begun = []

    def work(item):
        begun.append(item)
        if item in (3, 4):
            raise OSError(item)
        return item

    taken = []
    with pytest.raises(OSError, match="3"):
        taken.extend(iter(map_ahead(work, range(100), workers=2)))
    assert taken in ([], [0, 1, 2])
    assert len(begun) <= 3 + 2 * 2


def test_an_interrupt_ends_the_work():
    begun = []

    def work(item):
        begun.append(item)
        if item == 5:
            _thread.interrupt_main()
        threading.Event().wait(0.01)

    # a shell that runs the tests in the background has SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(map_ahead(work, range(1000), workers=2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(begun) < 100


def test_fewer_than_no_threads_are_refused():
    with pytest.raises(ValueError, match="workers must be 0 or more, got -1"):
        list(map_ahead(abs, [1], workers=-1))
