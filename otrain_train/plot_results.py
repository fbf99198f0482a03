"""What ``otrain-plot-results`` does: how good a model is by magnitude and its error, by threshold and by score."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from otrain_train.calibrate import operating_points
from otrain_train.canvas import save
from otrain_train.evaluation import Evaluation, Progress, evaluate_file
from otrain_train.intervals import NO_MAGNITUDE, intervals_of
from otrain_train.outputs import prepare_folder
from otrain_train.plots import Part, draw_mcc_f1, draw_recall, draw_roc, draw_scores

# The names are those of the original program.
FILES = (
    "mag_ROC.png",
    "mag_recall.png",
    "errmag_ROC.png",
    "errmag_recall.png",
    "model_F1_MCC.png",
    "prob_distribution.png",
)


@dataclass(frozen=True, slots=True)
class PlotSummary:
    """What was drawn.

    Attributes
    ----------
    files
        The plots.
    name
        Of the model.
    real, bogus, unscored
        Candidates of each class with a score, and those without.
    threshold
        The one in use.
    best
        The threshold at which F1 + MCC is highest; None where it is not defined.
    """

    files: tuple[Path, ...]
    name: str
    real: int
    bogus: int
    unscored: int
    threshold: float
    best: float | None

    def __str__(self) -> str:
        left_out = f", {self.unscored} without score left out" if self.unscored else ""
        best = "not defined on these candidates" if self.best is None else f"{self.best:.4g}"
        return "\n".join(
            [
                f"{self.name}: {self.real} real and {self.bogus} bogus candidates{left_out}",
                f"threshold in use: {self.threshold:g}; best threshold (F1 + MCC highest): {best}",
                *(f"plot: {file}" for file in self.files),
            ]
        )


def plot_results(
    cube: Path,
    model: Path,
    folder: Path,
    threshold: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> PlotSummary:
    """Plot how good a model is on labelled cutouts.

    Writes the files of `FILES` in `folder`. What cannot be measured is said in the plot. No other file is touched.

    Parameters
    ----------
    cube
        Labelled cutouts, an .npz file.
    model
        The .onnx file.
    folder
        Where to write.
    threshold
        A candidate is called real from this score on; the model's if not given.
    seed
        Decides the resamples that give the bands.
    progress
        Called with what is done, all there is, and a few words.

    Returns
    -------
    PlotSummary
        As text, what a person wants to know.

    Raises
    ------
    ModelError, DatacubeError
        When one of the files cannot be used, or they do not fit together.
    UsageError
        When an input would be replaced.
    OutputError
        When something cannot be written.
    """
    prepare_folder(folder, FILES, (cube, model))
    found = evaluate_file(cube, model, threshold, progress)
    for number, (name, figure) in enumerate(_draw(found, seed), 1):
        save(figure, folder / name)
        if progress:
            progress(number, len(FILES), "plotting")
    best = [each.threshold for each in operating_points(found.labels, found.scores) if each.name == "best-f1-mcc"]
    return PlotSummary(
        files=tuple(folder / name for name in FILES),
        name=found.name,
        real=int(np.sum(found.scored & (found.labels == 1))),
        bogus=int(np.sum(found.scored & (found.labels == 0))),
        unscored=int(np.sum(~found.scored)),
        threshold=found.threshold,
        best=best[0] if best else None,
    )


def _draw(found: Evaluation, seed: int) -> Iterator[tuple[str, Figure]]:
    name, cube = found.name, found.datacube
    for key, quantity, values in (("mag", "magnitude", cube.mags), ("errmag", "magnitude error", cube.errmags)):
        parts, note = parts_of(found, values, quantity)
        yield f"{key}_ROC.png", draw_roc(parts, f"ROC by {quantity}: {name}", np.random.default_rng(seed), note)
        title = f"Precision and recall by {quantity}: {name}"
        yield f"{key}_recall.png", draw_recall(parts, title, np.random.default_rng(seed), note)
    rng = np.random.default_rng(seed)
    yield "model_F1_MCC.png", draw_mcc_f1(found.labels, found.scores, found.threshold, name, rng)
    yield "prob_distribution.png", draw_scores(found.labels, found.scores, found.threshold, f"Scores: {name}")


def parts_of(found: Evaluation, values: npt.NDArray[np.float64], quantity: str) -> tuple[list[Part], str]:
    """Part the candidates with a score by a quantity, and say how many are in no interval.

    Parameters
    ----------
    found
        The candidates.
    values
        float64 (n,), the quantity; NaN and what is beyond any magnitude count as missing.
    quantity
        Its name.
    """
    known = np.where(found.scored & (np.abs(values) < NO_MAGNITUDE), values, np.nan)
    parts = [Part(each.label, found.labels[each.rows], found.scores[each.rows]) for each in intervals_of(known)]
    counts = {f"without {quantity}": int(np.sum(found.scored & np.isnan(known)))}
    counts["without score"] = int(np.sum(~found.scored))
    left_out = " and ".join(f"{count} {words}" for words, count in counts.items() if count)
    return parts, f"{left_out} left out" if left_out else ""
