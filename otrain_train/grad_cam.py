"""What ``otrain-grad-cam`` does: pictures of what a network looked at where it erred, and where it did not."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from otrain_infer.errors import ModelError, UsageError
from otrain_train.canvas import save
from otrain_train.evaluation import OUTCOMES, Evaluation, Progress, evaluate_file
from otrain_train.explanation import KEY, Cam, explain, names_of
from otrain_train.gallery import draw_pictures, title_of
from otrain_train.outputs import prepare_folder, renewing
from otrain_train.rows import spread_rows
from otrain_train.saliency import ENDINGS, network_beside, open_grad_cam
from otrain_train.splits import Rows

FOLDERS = {"TP": "True Positive", "FP": "False Positive", "TN": "True Negative", "FN": "False Negative"}
PICTURE = "cutout_CAM_{}.png"
LISTING = "pictures.txt"

CHECKED = 64
"""Rows on which the network is compared with the exported model."""


@dataclass(frozen=True, slots=True)
class CamSummary:
    """What was drawn.

    Attributes
    ----------
    folder
        Holds a folder for each outcome.
    counts
        Pictures by outcome.
    threshold
        The score from which a candidate is called real.
    scored, unscored
        Rows with a score, and those without one, which have no outcome.
    """

    folder: Path
    counts: dict[str, int]
    threshold: float
    scored: int
    unscored: int

    def __str__(self) -> str:
        drawn = ", ".join(f"{self.counts[outcome]} {name.lower()}" for outcome, name in FOLDERS.items())
        text = f"{self.folder}: {drawn} (called real from a score of {self.threshold:g} on)"
        return f"{text}; {self.unscored} without score left out" if self.unscored else text


def grad_cam(
    cube: Path,
    model: Path,
    folder: Path,
    n_random: int = 30,
    threshold: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> CamSummary:
    """Draw what a network looked at: all false positives and negatives, and some of the others.

    Writes ``grad_cam/{True Positive,False Positive,True Negative,False Negative}/cutout_CAM_{i}.png`` in `folder`, the
    worst mistakes first. Pictures of an earlier run are replaced by those of this one; no other file is touched.

    Parameters
    ----------
    cube
        Labelled cutouts, an .npz file.
    model
        The .onnx file or the Keras file beside it: both are needed.
    folder
        Where to write.
    n_random
        How many true positives, and how many true negatives, are drawn at random; all of them where there are fewer.
    threshold
        A candidate is called real from this score on; the model's if not given.
    seed
        Decides which.
    progress
        Called with the pictures done, all of them, and what is being done.

    Returns
    -------
    CamSummary

    Raises
    ------
    ModelError
        When one of the two files is missing, or they do not belong together.
    DatacubeError
        When the datacube cannot be used or does not fit the model.
    OutputError
        When a picture cannot be written.
    """
    if n_random < 0:
        raise UsageError(f"n-random is the number of pictures, 0 or more, not {n_random}")
    model, network = _pair(model)
    home = folder / "grad_cam"
    prepare_folder(home, (), ())
    evaluation = evaluate_file(cube, model, threshold, progress)
    cam = open_grad_cam(network, evaluation.scorer, evaluation.pixels(_some(evaluation)))
    chosen = _choose(evaluation, n_random, np.random.default_rng(seed))
    names = {
        outcome: [f"{FOLDERS[outcome]}/{PICTURE.format(i)}" for i in range(rows.size)]
        for outcome, rows in chosen.items()
    }
    done, total = 0, sum(map(len, names.values()))
    with renewing(home, LISTING, (name for each in names.values() for name in each)):
        for outcome, rows in chosen.items():
            (home / FOLDERS[outcome]).mkdir(exist_ok=True)
            for name, picture in zip(names[outcome], _draw(evaluation, rows, outcome, cam), strict=True):
                save(picture, home / name)
                done += 1
                if progress:
                    progress(done, total, "drawing")
    counts = {outcome: rows.size for outcome, rows in chosen.items()}
    scored = int(evaluation.scored.sum())
    return CamSummary(home, counts, evaluation.threshold, scored, evaluation.scored.size - scored)


def _pair(model: Path) -> tuple[Path, Path]:
    if model.suffix not in ENDINGS:
        if model.is_file():
            return model, network_beside(model)
        return model, model.with_suffix(ENDINGS[0])  # there is no model: opening it says so
    exported = model.with_suffix(".onnx")
    if not exported.is_file():
        raise ModelError(
            f"there is no '{exported}' beside the Keras network '{model}': otrain-train writes both, and otrain-export "
            "makes the one of the other"
        )
    return exported, model


def _some(evaluation: Evaluation) -> Rows:
    rows = np.flatnonzero(evaluation.scored)
    return spread_rows(rows, CHECKED) if rows.size else rows


def _choose(evaluation: Evaluation, n_random: int, rng: np.random.Generator) -> dict[str, Rows]:
    chosen = {outcome: evaluation.rows(outcome) for outcome in ("FP", "FN")}
    for outcome in ("TP", "TN"):
        rows = evaluation.rows(outcome)
        chosen[outcome] = rows[np.sort(rng.permutation(rows.size)[:n_random])]
    return chosen


def _draw(evaluation: Evaluation, rows: Rows, outcome: str, cam: Cam) -> Iterator[Figure]:
    names = names_of(evaluation, cam)
    label, called = ("real" if truth else "bogus" for truth in OUTCOMES[outcome])
    for row, pictures in zip(rows, explain(evaluation, rows, cam), strict=True):
        title = title_of(evaluation.datacube, int(row), float(evaluation.scores[row]))
        told = f"{FOLDERS[outcome].lower()}: {label}, called {called}; {KEY}"
        yield draw_pictures(pictures, names, f"{title}\n{told}")
