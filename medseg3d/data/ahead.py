"""Work on one item after the other, a few of them prepared ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """`function(item)` of every item, in order, with up to `2 * workers` under way or waiting to be taken.

    A slow item holds up nothing but the results behind it: the threads continue with the next items meanwhile.
    Decoding, inflating, resampling and torch leave Python's lock alone, so threads use as many cores, and nothing has
    to be copied from process to process. Each thread gets its share of torch's own threads.

    Closing the generator, an exception of `function` and an interrupt cancel what has not begun.

    Args:
        function: called in the threads, or here where there are none.
        items: taken one by one, here, as the threads are ready for them.
        workers: number of threads; 0 for none.

    Raises:
        ValueError: `workers` below 0.

    Example:
        >>> list(map_ahead(abs, [-3, 2, -1], workers=2))
        [3, 2, 1]
    """
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}")
    if workers == 0:
        yield from map(function, items)
        return
    threads = torch.get_num_threads()
    share = max(1, threads // workers)
    pool = ThreadPoolExecutor(workers, "medseg3d", initializer=torch.set_num_threads, initargs=(share,))
    under_way: deque[Future[Result]] = deque()
    rest = iter(items)
    try:
        while True:
            if len(under_way) == 2 * workers:
                yield under_way.popleft().result()
            try:
                item = next(rest)
            except StopIteration:
                break
            under_way.append(pool.submit(function, item))
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the workers' share would be that of every thread started from now on
