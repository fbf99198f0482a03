"""The one way a function becomes a kernel: compiled by numba for an explicit signature, cached where it can be.

Importing numba and loading kernels takes longer than all else on the way to a first score, so nothing of it is done
before a kernel is called, and only for that kernel: the machine code of those that it calls is within its own.
"""

import logging
from collections.abc import Callable, Iterator
from functools import cache, update_wrapper
from typing import Any

from otrain_infer.errors import UsageError

log = logging.getLogger(__name__)

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

_kernels: list["Kernel"] = []


class Deferred:
    """What numba is to call within kernels, made when numba first asks for it.

    Parameters
    ----------
    make
        Makes it, such as a function that defines an intrinsic; numba may be imported in there.
    *arguments
        Of `make`.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        self._make, self._arguments = make, arguments
        self._made: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """Call what it stands for."""
        made = self._made
        return (self.get() if made is None else made)(*arguments)

    def get(self) -> Any:
        """Give what it stands for, made once however many threads ask."""
        from numba.core.compiler_lock import global_compiler_lock

        with global_compiler_lock:
            if self._made is None:
                _tell_numba_of_deferred()
                self._made = self._make(*self._arguments)
        return self._made

    @property
    def file(self) -> str:
        """The source file of what it stands for."""
        return str(self._make.__code__.co_filename)


class Kernel(Deferred):
    """A function that numba compiles, or loads from its cache, when it is first called.

    Parameters
    ----------
    function
        As Python runs it.
    signatures
        Of numba.
    """

    def __init__(self, function: Callable[..., Any], signatures: tuple[str, ...]) -> None:
        super().__init__(_compile, self, signatures)
        update_wrapper(self, function)
        self.py_func = function
        _kernels.append(self)

    @property
    def file(self) -> str:
        """The source file of the function."""
        return self.py_func.__code__.co_filename

    @property
    def stats(self) -> Any:
        """Where numba keeps the machine code, and whether it was found there."""
        return self.get().stats


def kernel(*signatures: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Decorate a function so that numba compiles it for `signatures` when it is first called.

    The machine code is kept in numba's cache folder. Where none can be written (read-only file system, full disk) the
    function is compiled anew in each process instead.

    Parameters
    ----------
    *signatures
        One numba signature or more, such as ``"float64(float64[::1])"``.

    Returns
    -------
    callable
        The decorator.
    """
    return lambda function: Kernel(function, signatures)


def compile_all() -> None:
    """Compile the kernels of this package, as far as imported, or find them in the cache, so that no call waits."""
    for each in _kernels:
        if each.py_func.__module__.startswith(f"{__package__}."):
            each.get()


def _compile(kernel: Kernel, signatures: tuple[str, ...]) -> Any:
    import numba

    if numba.config.DISABLE_JIT:
        raise UsageError("NUMBA_DISABLE_JIT is set, and without compilation the kernels cannot run: unset it")
    for way in (_compile_lean, _compile_cached, _compile_uncached):
        try:
            compiled = way(kernel, list(signatures))
        except Exception as error:  # a damaged cache raises anything; a fault of the function comes again
            if way is _compile_uncached:
                raise
            log.debug("kernel %s is not cached: %s", kernel.py_func.__name__, error)
            continue
        break
    if not compiled.stats.cache_hits:
        _tell_that_it_takes_time()
    return compiled


def _compile_lean(kernel: Kernel, signatures: list[str]) -> Any:
    import numba

    from otrain_infer.kernel_cache import KernelCache

    compiled = numba.njit(**OPTIONS)(kernel.py_func)
    compiled._cache = KernelCache(kernel.py_func, set(_files(kernel)))
    for signature in signatures:
        compiled.compile(signature)
    compiled.disable_compile()
    return compiled


def _compile_cached(kernel: Kernel, signatures: list[str]) -> Any:
    import numba

    return numba.njit(signatures, cache=True, **OPTIONS)(kernel.py_func)


def _compile_uncached(kernel: Kernel, signatures: list[str]) -> Any:
    import numba

    return numba.njit(signatures, **OPTIONS)(kernel.py_func)


def _files(deferred: Deferred) -> Iterator[str]:
    yield deferred.file
    if isinstance(deferred, Kernel):
        for name in deferred.py_func.__code__.co_names:
            value = deferred.py_func.__globals__.get(name)
            if isinstance(value, Deferred) and value is not deferred:
                yield from _files(value)


@cache
def _tell_numba_of_deferred() -> None:
    from numba.core.registry import cpu_target
    from numba.extending import typeof_impl

    def type_of(value: Deferred, context: Any) -> Any:  # noqa: ARG001 (what numba passes)
        made = value.get()
        cpu_target.typing_context.refresh()  # which learns of what was made just now
        return cpu_target.typing_context.resolve_value_type(made)

    typeof_impl.register(Deferred)(type_of)


@cache
def _tell_that_it_takes_time() -> None:
    log.info("compiling kernels for this processor, which takes some seconds; they are kept where that is possible")
