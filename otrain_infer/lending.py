"""Memory that is lent and used again: fresh pages cost more than filling them."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Lender(Generic[T]):
    """Lends things that take long to make, each to one borrower at a time, in any thread.

    As many are kept as were ever lent at once.

    Parameters
    ----------
    make
        Makes one.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free: deque[T] = deque()

    @contextmanager
    def lend(self) -> Iterator[T]:
        """Lend what was given back last, or a new one."""
        try:
            lent = self._free.pop()
        except IndexError:
            lent = self._make()
        try:
            yield lent
        finally:
            self._free.append(lent)
