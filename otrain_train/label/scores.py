"""Scores of all candidates, computed in the background while the page is in use."""

import logging
import os
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import OtrainError
from otrain_infer.scorer import Scorer
from otrain_train.candidate_folder import CandidateFolder

log = logging.getLogger(__name__)

PART = 1024
"""Candidates scored by one model before it is the turn of the next."""


class Scores:
    """What one or two models make of the candidates, as far as they have come.

    Parameters
    ----------
    candidates
        Which there are.
    models
        ONNX files, none to two.

    Attributes
    ----------
    scorers
        One for each model.
    values
        float32 (models, n), NaN where there is no score, or none yet.
    done
        How many candidates have been scored by all models.
    problem
        Why no more are scored; empty where nothing is the matter.
    """

    def __init__(self, candidates: CandidateFolder, models: Sequence[str | os.PathLike[str]] = ()) -> None:
        self._candidates = candidates
        self.scorers = [Scorer(model) for model in models]
        self.values: npt.NDArray[np.float32] = np.full((len(models), len(candidates)), np.nan, np.float32)
        self.done = 0 if models else len(candidates)
        self.problem = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scores", daemon=True)

    def start(self) -> None:
        """Begin to score."""
        if self.scorers:
            self._thread.start()

    def stop(self) -> None:
        """End, scored or not."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def names(self) -> list[str]:
        """What tells the models from all others, as of `Scorer.identity`."""
        return [scorer.identity for scorer in self.scorers]

    def _run(self) -> None:
        try:
            for start in range(0, len(self._candidates), PART):
                stop = min(start + PART, len(self._candidates))
                for number, scorer in enumerate(self.scorers):
                    self._score(number, scorer, start, stop)
                    if self._stop.is_set():
                        return
                self.done = stop
        except OtrainError as error:
            self.problem = str(error)
            log.error("no more candidates are scored: %s", error)

    def _score(self, number: int, scorer: Scorer, start: int, stop: int) -> None:
        paths = [self._candidates.path(index) for index in range(start, stop)]
        for cutouts, scores in scorer.score_each(paths):
            self.values[number, start : start + len(cutouts)] = scores
            start += len(cutouts)
            if self._stop.is_set():
                return
