"""Work done in several processes at a time, each started anew with its share of the processors."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from otrain_infer.command import available_processors
from otrain_infer.errors import OtrainError

log = logging.getLogger(__name__)

TASKS_OF_ONE = 20
"""Tasks that a process does before it is replaced: trainings leave memory behind."""


@dataclass(frozen=True, slots=True)
class Place:
    """What work may know of the process that it is done in.

    Attributes
    ----------
    threads
        How many it may compute with.
    stop
        An event: set once the work is to end before its time.
    """

    threads: int
    stop: Any

    def stop_if_asked(self) -> None:
        """Raise KeyboardInterrupt when the work is to end; call it often."""
        if self.stop.is_set():
            raise KeyboardInterrupt


Work = Callable[[Any, Any, Place], Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of work that gave no result.

    Attributes
    ----------
    failures
        Name of each task that failed, and a sentence.
    interrupted
        Whether Ctrl-C ended the work.
    """

    failures: dict[str, str]
    interrupted: bool


@dataclass(frozen=True, slots=True)
class _Round:
    # One lot of processes: it ends when all is done, when one of them is killed, or with Ctrl-C.
    work: Work
    common: Any
    report: Callable[[str, Any], None]

    def run(self, tasks: Mapping[str, Any], processes: int) -> tuple[Outcome, list[str]]:
        context = multiprocessing.get_context("spawn")
        place = Place(max(1, available_processors() // processes), context.Event())
        failures, killed = dict[str, str](), set[str]()
        with ProcessPoolExecutor(processes, context, _begin, (self.work, self.common, place)) as pool:
            try:
                futures = self._submit(pool, tasks)
                killed |= tasks.keys() - futures.values()
                for future in as_completed(futures):
                    error, name = future.exception(), futures[future]
                    if error is None:
                        self.report(name, future.result())
                    elif isinstance(error, BrokenProcessPool):
                        killed.add(name)
                    else:
                        failures[name] = _sentence(error)
            except KeyboardInterrupt:
                log.warning("interrupted: what is being done ends at the next step")
                place.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                return Outcome(failures, True), []
        return Outcome(failures, False), [name for name in tasks if name in killed]

    def _submit(self, pool: ProcessPoolExecutor, tasks: Mapping[str, Any]) -> dict[Future[Any], str]:
        futures: dict[Future[Any], str] = {}
        with _unharmed_by_interrupts(), suppress(BrokenProcessPool):
            for name, task in tasks.items():
                futures[pool.submit(_do, task)] = name
        return futures


def run_in_processes(
    work: Work,
    common: Any,
    tasks: Mapping[str, Any],
    processes: int,
    report: Callable[[str, Any], None],
    tasks_of_one: int = TASKS_OF_ONE,
) -> Outcome:
    """Do tasks in processes of their own.

    What fails does not end the rest. When a process is killed, which the system does where memory runs out, the tasks
    that are not over are done by half as many processes, and so on; what kills a process that is alone counts as
    failed. Processes are replaced now and then, so that what TensorFlow does not give back adds up no further. Ctrl-C
    lets the tasks that are being done end at their next step and begins no other. When this process is killed, those
    that it started end too.

    Parameters
    ----------
    work
        A function of a module, called with `common`, a task and a `Place`. It must not import TensorFlow before it is
        called: the number of its threads is set in the environment when the process begins.
    common
        What all tasks share; each process gets it once.
    tasks
        By name, in the order in which they are begun.
    processes
        How many at a time.
    report
        Called with the name and the result of each task once it is over.
    tasks_of_one
        How many a process does before it is replaced.

    Returns
    -------
    Outcome
    """
    left, failures = dict(tasks), dict[str, str]()
    at_once = max(1, min(processes, len(left)))
    while left:
        lot = dict(islice(left.items(), at_once * tasks_of_one))
        outcome, killed = _Round(work, common, report).run(lot, at_once)
        failures |= outcome.failures
        if outcome.interrupted:
            return Outcome(failures, True)
        if killed and at_once > 1:
            at_once //= 2
            log.warning("a process was killed, perhaps since memory ran out: going on with %d at a time", at_once)
        elif killed:
            failures[killed.pop(0)] = (
                "its process was killed: perhaps memory ran out, or the script that asked for it runs all of itself "
                "where it is imported, without if __name__ == '__main__'"
            )
        left = {name: task for name, task in left.items() if name not in lot or name in killed}
    return Outcome(failures, False)


@contextmanager
def _unharmed_by_interrupts() -> Iterator[None]:
    # Processes started within inherit that Ctrl-C, which the terminal sends to all of them, is no business of theirs.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _sentence(error: BaseException) -> str:
    said = str(error).strip() or "no more is known"
    return said if isinstance(error, OtrainError) else f"{type(error).__name__}: {said.splitlines()[0]}"


def suitable_processes(memory_of_one: int) -> int:
    """Say how many processes the processors and the free memory of this machine are enough for, 1 at least.

    Parameters
    ----------
    memory_of_one
        Bytes that a process takes at most.
    """
    free = _free_memory()
    return max(1, min(available_processors(), 1 if free is None else free // memory_of_one))


def _free_memory() -> int | None:
    # Bytes; of the machine and, where a container has a limit of its own, of that.
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        found.append(max(0, int(limit) - int(used)))  # "max" is no number, and no limit
    return min(found, default=None)


_here: dict[str, Any] = {}


def _begin(work: Work, common: Any, place: Place) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(place.threads)
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # else the first process takes the memory of all
    _here.update(work=work, common=common, place=place)


def _do(task: Any) -> Any:
    return _here["work"](_here["common"], task, _here["place"])


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
