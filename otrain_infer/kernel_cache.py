"""Where compiled kernels are kept: numba's cache, read without importing what only a compilation needs."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys


class KernelCache(FunctionCache):  # type: ignore[misc]
    """The cache of one kernel.

    Numba prepares for a compilation before it looks into its cache, which takes longer than anything else on the way to
    a first score, and imports SciPy where that is installed; this one only makes ready what loaded code runs on. Numba
    also takes a kernel for fresh as long as its own file is the same, though the code of kernels from other files is
    within it; this one looks at all these files.

    Parameters
    ----------
    function
        What is compiled.
    files
        The source files of the function and of all that it calls.
    """

    def __init__(self, function: Any, files: Iterable[str]) -> None:
        super().__init__(function)
        digest = hashlib.sha256()
        for file in sorted(files):
            digest.update(Path(file).read_bytes())
        self._sources = digest.hexdigest()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Give the compiled code for a signature, or None where it is not kept."""
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), self._sources)
