"""Work over chunks in threads, with the results in order and a bound on what is in flight."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar


class Sliceable(Protocol):
    """A sequence or an array."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S", bound=Sliceable)


def split(items: S, length: int) -> Iterator[S]:
    """Cut `items` into consecutive chunks of `length`; the last may be shorter."""
    for start in range(0, len(items), length):
        yield items[start : start + length]


def gather(items: Iterable[T], length: int, weigh: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Gather consecutive items into lists of `length`; of fewer at the end, and where they weigh `most` or more."""
    chunk: list[T] = []
    weight = 0
    for item in items:
        chunk.append(item)
        weight += weigh(item)
        if len(chunk) == length or weight >= most:
            yield chunk
            chunk, weight = [], 0
    if chunk:
        yield chunk


def map_in_order(function: Callable[[T], R], chunks: Iterable[T], threads: int) -> Iterator[R]:
    """Apply `function` to chunks in several threads, giving the results in the order of the chunks.

    At most `threads` + 1 chunks are in flight, so memory does not grow with their number. With one thread all is done
    in the caller's. When the caller stops early, chunks not yet begun are dropped.

    Parameters
    ----------
    function
        Called with one chunk; it should spend its time outside the interpreter lock.
    chunks
        Taken one at a time as there is room.
    threads
        How many work at once.

    Yields
    ------
    object
        What `function` returned, in order. What it raised is raised here.
    """
    if threads <= 1:
        yield from map(function, chunks)
        return
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="otrain") as pool:
        try:
            for chunk in chunks:
                pending.append(pool.submit(function, chunk))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
