"""A model in use, and how another takes its place while it works."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from otrain_infer.alerts import AlertReader
from otrain_infer.errors import ModelError, OtrainError
from otrain_infer.inspection import verify
from otrain_infer.scorer import Scorer

log = logging.getLogger("otrain.stream")

State = tuple[int, int, int] | None
"""Of a file: its inode, size (bytes) and time of change (ns); None where there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model that is ready: its scorer, and the reader of the alerts that it takes."""

    scorer: Scorer
    reader: AlertReader


class LiveModel:
    """The model of a stream, which may be replaced between two batches.

    What is to replace it is loaded beside the work, and has to score its golden cutouts as it promises; else the old
    one stays, and why is logged. For use in one thread; what `current` gives may go to others.

    Parameters
    ----------
    path
        The ONNX file; None for the embedded demonstration model.
    load
        Makes a model of its bytes, or of None.
    watch
        How often the file is looked at (s); 0 for never.

    Attributes
    ----------
    current
        The model in use.
    tell
        Called with ``switched`` or ``refused`` whenever it was to be replaced.

    Raises
    ------
    OtrainError
        When the first model cannot be used.
    """

    def __init__(
        self,
        path: str | None,
        load: Callable[[bytes | None], Loaded],
        watch: float = 0.0,
    ) -> None:
        self._path, self._load, self._watch = path, load, watch
        self.tell: Callable[[str], None] = lambda _: None
        self._state = _state_of(path)
        self.current = load(_read(path))
        self._asked, self._next_look = False, monotonic() + watch
        self._loading: Future[Loaded] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="otrain-model")

    def ask(self) -> None:
        """Ask for the file to be loaded again, as on SIGHUP; good to be called from a signal handler."""
        self._asked = True

    def update(self) -> None:
        """Begin to load what has been asked for or has changed, and take what is loaded in use."""
        if self._loading is None:
            if self._asked or self._has_changed():
                self._asked, self._state = False, _state_of(self._path)
                self._loading = self._pool.submit(self._load_and_verify)
        elif self._loading.done():
            loading, self._loading = self._loading, None
            self._take(loading)

    def close(self) -> None:
        """Stop loading."""
        self._pool.shutdown(cancel_futures=True)

    def _has_changed(self) -> bool:
        if not self._watch or monotonic() < self._next_look:
            return False
        self._next_look = monotonic() + self._watch
        return _state_of(self._path) != self._state

    def _load_and_verify(self) -> Loaded:
        content = _read(self._path)
        report, passed = verify(content)
        if not passed:
            raise ModelError(report)
        return self._load(content)

    def _take(self, loading: "Future[Loaded]") -> None:
        try:
            loaded = loading.result()
        except (OtrainError, MemoryError) as error:
            log.error("the model '%s' is not taken, %s stays: %s", self._path, self.current.scorer.identity, error)
            self.tell("refused")
            return
        log.warning("model %s takes the place of %s", loaded.scorer.identity, self.current.scorer.identity)
        self.current = loaded
        self.tell("switched")


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        if not Path(path).is_file() and Path(path).exists():  # reading a pipe may never end
            raise ModelError(f"the model '{path}' cannot be read (it is no file)")
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"the model '{path}' cannot be read ({error.strerror})") from None


def _state_of(path: str | None) -> State:
    try:
        found = Path(path or os.devnull).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
