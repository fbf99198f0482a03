"""The scorer: one ONNX session, fed in micro-batches, that gives each row its score, and its spread, or NaN."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from otrain_infer.card import INPUT, OUTPUT, PRECISE, SPREAD
from otrain_infer.chunks import map_in_order, split
from otrain_infer.cutouts import CHUNK, CutoutReader, Cutouts, reader_for
from otrain_infer.errors import UsageError
from otrain_infer.gpu import BoundSessions, batch_size_for, free_memory, lock_pages
from otrain_infer.lending import Lender
from otrain_infer.normalise import Pixels, as_kernels_take, find_blank
from otrain_infer.session import (
    DEFAULT_MODEL,
    check_model,
    has_fast_int8,
    import_runtime,
    open_sessions,
    read_model,
    refusing,
)
from otrain_infer.sources import Source, list_sources

T = TypeVar("T")
Scores = npt.NDArray[np.float32]
Outputs = list[Scores]
Rows = npt.NDArray[np.intp]

BATCH_SIZE = 64
"""Rows of a micro-batch: past these a processor gains nothing, and memory grows."""

INT8_BATCH_SIZE = 16
"""The same in int8: what a layer gives for more of them does not stay in the nearest cache, which counts for more where
the arithmetic takes less."""

_CHUNKS_RESCORED = 4  # at a time, so that the rows that are scored again fill a batch

PRECISIONS = ("auto", "int8", "fp32")


class Scorer:
    """Gives cutouts the probability of being real.

    It may be used by several threads at once, pickled, and used on either side of a fork.

    Parameters
    ----------
    model
        An ONNX file that carries its card: a path, or its bytes. None takes the embedded demonstration model.
    device
        ``cpu``; ``cuda``, ``cuda:N`` or, for several GPUs, ``cuda:N,M``, which fails where one cannot be had; ``auto``,
        CUDA where it can be had.
    threads
        How many Python threads read, normalise and compute, each with a single computing thread of its own.
    batch_size
        Rows given to the network at a time. None chooses.
    precision
        Of a model with an int8 copy of its network. ``auto`` takes the copy where the processor is fast at it, and the
        network itself for the rows whose score could fall on the other side of a threshold; ``int8`` takes the copy
        for every row, ``fp32`` the network itself. Any other model has one precision, which ``auto`` takes.

    Raises
    ------
    ModelError
        When the file is not a model with a card, or its tensors disagree with the card.
    DeviceError
        When the device cannot be had.
    MissingExtraError
        When onnxruntime is not installed.
    UsageError
        When an argument makes no sense.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | None = None,
        device: str = "cpu",
        threads: int = 1,
        batch_size: int | None = None,
        precision: str = "auto",
    ) -> None:
        if threads < 1:
            raise UsageError(f"{threads} threads cannot work: give 1 or more")
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"a batch of {batch_size} cutouts is none: give 1 or more")
        if precision not in PRECISIONS:
            raise UsageError(f"precision '{precision}' is unknown: take one of {', '.join(PRECISIONS)}")
        self._source = "the model" if isinstance(model, bytes) else f"'{model or DEFAULT_MODEL}'"
        self._content = read_model(model)
        self._asked_device = device
        self.threads = threads
        self._asked_batch_size = batch_size
        self._asked_precision = precision
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        self.device, sessions = open_sessions(self._content, self._asked_device, self._source)
        session, gpu = sessions[0]
        self.card, self._outputs = check_model(session, self._source)
        # Not a function that holds the scorer: a model that is replaced has to let go of its memory at once.
        self._rooms = Lender(partial(_Room, self.card.shape, self.device == "cuda"))
        if self.device == "cuda":
            self._compute = BoundSessions(sessions, import_runtime()).run
        else:
            self._compute = session.run
        self.precision = self._choose_precision()
        usual = INT8_BATCH_SIZE if self.precision == "int8" else BATCH_SIZE
        if self.device == "cuda":
            usual = batch_size_for(self.card.shape, free_memory(gpu))
        self.batch_size = self._asked_batch_size or usual
        self._rescored, self._counting = 0, threading.Lock()
        with refusing(self._source):
            self._compute([OUTPUT], {INPUT: np.zeros((1, *self.card.shape), np.float32)})

    def _choose_precision(self) -> str:
        asked, own = self._asked_precision, str(self.card.training.get("precision", "fp32"))
        if not self.card.cascade:
            if asked not in ("auto", own):
                raise UsageError(f"{self._source} cannot be run in {asked}: all that it holds is {own}; take auto")
            return own
        if asked == "auto":
            return "int8" if self.device == "cpu" and has_fast_int8() else "fp32"
        return asked

    def __getstate__(self) -> dict[str, Any]:
        return {
            "_source": self._source,
            "_content": self._content,
            "_asked_device": self._asked_device,
            "threads": self.threads,
            "_asked_batch_size": self._asked_batch_size,
            "_asked_precision": self._asked_precision,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the model file, in hexadecimal."""
        return hashlib.sha256(self._content).hexdigest()

    @property
    def identity(self) -> str:
        """Name, version and the beginning of the SHA-256 of the model: what a table of scores names it by."""
        return f"{self.card.name}-{self.card.version}@{self.sha256[:8]}"

    @property
    def has_spread(self) -> bool:
        """Whether the model is an ensemble that tells how far apart the scores of its networks are."""
        return SPREAD in self._outputs

    @property
    def rescored(self) -> int:
        """How many rows were scored in int8 first and by the network itself again, since the scorer was made."""
        return self._rescored

    @property
    def reader(self) -> CutoutReader:
        """The reader of the cutouts that this model takes."""
        return reader_for((), card=self.card)

    def score(self, cutouts: Cutouts) -> Scores:
        """Score cutouts.

        Parameters
        ----------
        cutouts
            Read for this model's planes and size.

        Returns
        -------
        ndarray
            float32 (n,), in 0-1; NaN where a row is unusable.

        Raises
        ------
        UsageError
            When the cutouts are anything else, or of another size or number of planes.
        """
        _check_cutouts(cutouts)
        scores = self.score_pixels(cutouts.pixels)
        scores[~cutouts.usable] = np.nan
        return scores

    def score_with_spread(self, cutouts: Cutouts) -> tuple[Scores, Scores]:
        """Score cutouts as `score` does, and give the spreads as of `score_pixels_with_spread` besides."""
        _check_cutouts(cutouts)
        both = self.score_pixels_with_spread(cutouts.pixels)
        for each in both:
            each[~cutouts.usable] = np.nan
        return both

    def score_pixels(self, pixels: Pixels) -> Scores:
        """Score raw pixels that are already in memory.

        Parameters
        ----------
        pixels
            Raw, not normalised: (n, ny, nx, planes), of any real type; NaN where there is none.

        Returns
        -------
        ndarray
            float32 (n,), in 0-1; NaN where a plane is blank.

        Raises
        ------
        UsageError
            When these are not real numbers, or their shape is not the model's.
        """
        (scores,) = self._score_pixels(pixels, [OUTPUT])
        return scores

    def score_pixels_with_spread(self, pixels: Pixels) -> tuple[Scores, Scores]:
        """Score raw pixels as `score_pixels` does, and tell in the same pass how far the networks are apart.

        Parameters and errors are those of `score_pixels`.

        Returns
        -------
        scores : ndarray
            float32 (n,), those of `score_pixels`.
        spreads : ndarray
            float32 (n,), the standard deviation of the scores that the networks of an ensemble give; NaN where there
            is no score, and for every row where the model is a single network (see `has_spread`).
        """
        scores, *spreads = self._score_pixels(pixels, self._outputs)
        return scores, spreads[0] if spreads else np.full_like(scores, np.nan)

    def _score_pixels(self, pixels: Pixels, outputs: list[str]) -> Outputs:
        pixels = np.asarray(pixels)
        if pixels.dtype.kind not in "biuf":
            raise UsageError(f"pixels are real numbers, not {pixels.dtype}")
        if pixels.ndim != 4 or pixels.shape[1:] != self.card.shape:
            wanted = ", ".join(map(str, self.card.shape))
            raise UsageError(f"the model takes pixels of shape (n, {wanted}), not {pixels.shape}")
        self._reopen_after_fork()
        threads = self.threads if len(pixels) > self.batch_size else 1
        score = partial(self._score_batch, outputs=outputs)
        found = _join(map_in_order(score, split(pixels, self.batch_size), threads), len(outputs))
        self._rescore(lambda rows: self.card.normalisation.apply(as_kernels_take(pixels[rows])), found, outputs)
        return found

    def score_sources(self, sources: Source | Iterable[Source]) -> Iterator[tuple[Cutouts, Scores]]:
        """Read and score cutouts chunk by chunk, reading in threads beside scoring.

        Parameters
        ----------
        sources
            A folder, a glob, a path, bytes, a binary file object, or a sequence of these.

        Yields
        ------
        cutouts : Cutouts
            Consecutive rows, in order, without their pixels.
        scores : ndarray
            float32 (n,), as of `score`.
        """
        yield from self.score_each(list_sources(sources))

    def score_each(self, sources: Sequence[Source]) -> Iterator[tuple[Cutouts, Scores]]:
        """Read and score as `score_sources` does, but one row for each source: a folder or glob is not expanded."""
        for cutouts, scores, _ in self.score_each_with_spread(sources):
            yield cutouts, scores

    def score_each_with_spread(self, sources: Sequence[Source]) -> Iterator[tuple[Cutouts, Scores, Scores]]:
        """Read and score as `score_each` does, and give the spreads as of `score_pixels_with_spread` besides."""
        self._reopen_after_fork()
        rows = max(CHUNK, self.batch_size)
        if self._rescores:
            rows *= _CHUNKS_RESCORED
        yield from map_in_order(self._read_and_score, split(sources, rows), self.threads)

    def score_parts(
        self, jobs: Iterable[T], read: Callable[[T], Iterable[Cutouts]]
    ) -> Iterator[tuple[Cutouts, Scores, Scores]]:
        """Score what is read of each job, in threads that read and score.

        Parameters
        ----------
        jobs
            Whatever `read` takes, such as some alert packets; taken one at a time as there is room.
        read
            Reads the cutouts of a job, for this model's planes and size, in parts that each fit in memory.

        Yields
        ------
        cutouts : Cutouts
            Each part, in order, without its pixels.
        scores, spreads : ndarray
            float32 (n,), as of `score_with_spread`.
        """
        self._reopen_after_fork()

        def work(job: T) -> list[tuple[Cutouts, Scores, Scores]]:
            return [self._score_in_place(cutouts) for cutouts in read(job)]

        for parts in map_in_order(work, jobs, self.threads):
            yield from parts

    def _reopen_after_fork(self) -> None:
        if self._pid != os.getpid():
            self._open()

    def _read_and_score(self, sources: Sequence[Source]) -> tuple[Cutouts, Scores, Scores]:
        with self._rooms.lend() as room:
            return self._score_in_place(self.reader.read(sources, room.take(len(sources))))

    def _score_in_place(self, cutouts: Cutouts) -> tuple[Cutouts, Scores, Scores]:
        """Score cutouts as they were read, whose pixels are then of no more use."""
        # The decoder has judged which are blank. Scaled where they are, they stay in the cache.
        batches = split(cutouts.pixels, self.batch_size)
        normalised = (self.card.normalisation.apply(each, each) for each in batches)
        found = _join((self._run(each, self._outputs) for each in normalised), len(self._outputs))
        for each in found:
            each[~cutouts.usable] = np.nan
        self._rescore(lambda rows: cutouts.pixels[rows], found, self._outputs)
        scores, *spreads = found
        return cutouts.without_pixels(), scores, spreads[0] if spreads else np.full_like(scores, np.nan)

    def _score_batch(self, pixels: Pixels, outputs: list[str]) -> Outputs:
        raw = as_kernels_take(pixels)
        with self._rooms.lend() as room:
            found = self._run(self.card.normalisation.apply(raw, room.take(len(raw))), outputs)
        blank = find_blank(raw)
        for each in found:
            each[blank] = np.nan
        return found

    @property
    def _rescores(self) -> bool:
        return bool(self.card.cascade) and self.precision == "int8" and self._asked_precision == "auto"

    def _rescore(self, take: Callable[[Rows], Pixels], found: Outputs, outputs: list[str]) -> None:
        """Put what the network itself gives in the place of int8 scores that are not to be relied on.

        `take` gives the normalised pixels of some rows.
        """
        if not (self.card.cascade and self._rescores):
            return
        near = np.flatnonzero(self.card.cascade.is_near(found[0]))
        for rows in split(near, self._asked_batch_size or BATCH_SIZE):
            precise = self._run(take(rows), outputs, precisely=True)
            for each, better in zip(found, precise, strict=True):
                each[rows] = better
        with self._counting:
            self._rescored += len(near)

    def _run(self, normalised: Pixels, outputs: list[str], precisely: bool = False) -> Outputs:
        feed = {INPUT: normalised}
        if self.card.cascade:
            feed[PRECISE] = np.array(precisely or self.precision == "fp32")
        found: Outputs = self._compute(outputs, feed)
        return found


class _Room:
    """Memory for the pixels of some cutouts, as much as was asked for at most so far."""

    def __init__(self, shape: tuple[int, int, int], locked: bool) -> None:
        self._pixels, self._locked = np.empty((0, *shape), np.float32), locked

    def take(self, rows: int) -> Pixels:
        if len(self._pixels) < rows:
            self._pixels = np.empty((rows, *self._pixels.shape[1:]), np.float32)
            if self._locked:
                lock_pages(self._pixels)
        return self._pixels[:rows]


def correct_for_ratio(scores: Scores, ratio: float) -> Scores:
    """Correct scores for a real-to-bogus ratio that differs from the training set's.

    Parameters
    ----------
    scores
        float32 (n,), in 0-1.
    ratio
        The ratio expected in the stream over that of the training set; 1 changes nothing.

    Returns
    -------
    ndarray
        float32 (n,): ``p / (p + (1 - p) / ratio)``, Bayes' rule for another prior (Saerens et al. 2002).

    Raises
    ------
    UsageError
        When the ratio is not a positive number.
    """
    if not (np.isfinite(ratio) and ratio > 0):
        raise UsageError(f"the ratio of real to bogus is a number above 0, not {ratio}")
    if ratio == 1:
        return scores
    real = scores.astype(np.float64) * ratio
    return np.asarray(real / (real + (1 - scores.astype(np.float64))), np.float32)


def correct_spread_for_ratio(spreads: Scores, scores: Scores, ratio: float) -> Scores:
    """Give the spreads that scores have once `correct_for_ratio` has corrected them, to first order.

    Parameters
    ----------
    spreads, scores
        float32 (n,), before the correction.
    ratio
        As of `correct_for_ratio`.

    Returns
    -------
    ndarray
        float32 (n,): the spreads times the slope of the correction, ``ratio / (p * ratio + 1 - p)**2``; 0.5 at most,
        as numbers in 0-1 cannot be further apart.
    """
    if ratio == 1:
        return spreads
    before = scores.astype(np.float64)
    scale = before * ratio + (1 - before)
    return np.asarray(np.minimum(spreads * (ratio / scale) / scale, 0.5), np.float32)


def _check_cutouts(cutouts: Any) -> None:
    if not isinstance(cutouts, Cutouts):
        raise UsageError(
            f"score takes Cutouts, as read_cutouts gives, not {type(cutouts).__name__}; "
            "score_sources takes paths and bytes, score_pixels an array"
        )


def _join(parts: Iterable[Outputs], outputs: int) -> Outputs:
    nothing = [np.empty(0, np.float32)] * outputs
    return [np.concatenate(each) for each in zip(nothing, *parts, strict=True)]
