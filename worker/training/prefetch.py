"""One batch ahead: the next is gathered by a thread while the present one is computed on."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetched(items: Iterable[Item], make: Callable[[Item], Made], ahead: int = 2) -> Iterator[Made]:
    """Yield `make(item)` for every item, in order, with up to `ahead` of them made in a thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        waiting: list[Future[Made]] = []
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > ahead:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
