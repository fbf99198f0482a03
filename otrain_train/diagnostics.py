"""What ``otrain-diagnostics`` does: how good a model is on labelled cutouts, and pictures of where it errs."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.atomic import replacing
from otrain_train.assessment import Assessment, assess
from otrain_train.canvas import save
from otrain_train.datacube import sha256
from otrain_train.evaluation import OUTCOMES, Evaluation, Progress, evaluate_file
from otrain_train.gallery import draw_cutout, draw_sheet, title_of
from otrain_train.outputs import prepare_folder, renewing
from otrain_train.plots import draw_confusion
from otrain_train.splits import Rows

PLACES = {
    "FP": "validation_set/misclassified/images_FP",
    "FN": "validation_set/misclassified/images_FN",
    "TP": "validation_set/well_classified/images_TP",
    "TN": "validation_set/well_classified/images_TN",
}
METRICS, CONFUSION, CANDIDATES, REPORT = "metrics.json", "confusion_matrix.png", "candidates.csv", "report.html"
PICTURES = "validation_set/pictures.txt"
COLUMNS = ("file", "candid", "label", "score", "outcome", "mag", "magerr", "filter", "fwhm")

SHOWN = 30
"""Of the true positives, and of the true negatives."""
PER_SHEET = 24
LONGEST = 80
"""Letters of a CANDID in the name of a picture."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found and written.

    Attributes
    ----------
    folder
        Where the files are.
    assessment
        The figures.
    drawn
        How many cutouts of each outcome were drawn.
    """

    folder: Path
    assessment: Assessment
    drawn: dict[str, int]

    def __str__(self) -> str:
        drawn = ", ".join(f"{count} {outcome}" for outcome, count in self.drawn.items())
        return f"{self.assessment}\n\ncutouts drawn: {drawn}\nresults: {self.folder}"


def diagnose(
    cube: Path,
    model: Path,
    folder: Path,
    threshold: float | None = None,
    seed: int = 0,
    report: bool = False,
    progress: Progress | None = None,
) -> Diagnosis:
    """Say how good a model is on labelled cutouts, and show where it errs.

    Writes in `folder` ``metrics.json``, ``confusion_matrix.png``, ``candidates.csv`` and, below ``validation_set``,
    every misclassified cutout and some of the others: a picture of each, and contact sheets. Pictures of an earlier run
    are replaced by those of this one; no other file is touched.

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
        Decides which of the well classified are shown, and how rows are resampled for the intervals.
    report
        Whether to write ``report.html`` as well.
    progress
        Called with what is done, all there is, and a few words.

    Returns
    -------
    Diagnosis
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
    prepare_folder(folder, (METRICS, CONFUSION, CANDIDATES, REPORT, PICTURES), (cube, model))
    found = evaluate_file(cube, model, threshold, progress)
    points = found.scorer.card.operating_points
    assessment = assess(found.labels, found.scores, found.threshold, np.random.default_rng(seed), points)
    chosen = _choose(found, np.random.default_rng(seed))
    _write_json(_describe(found, assessment, cube, seed), folder / METRICS)
    save(draw_confusion(assessment.figures, found.name), folder / CONFUSION)
    _write_candidates(found, folder / CANDIDATES)
    _write_pictures(found, chosen, folder, progress)
    if report:
        _write_report(found, model, folder / REPORT, seed)
    return Diagnosis(folder, assessment, {outcome: rows.size for outcome, rows in chosen.items()})


def _choose(found: Evaluation, rng: np.random.Generator) -> dict[str, Rows]:
    chosen = {outcome: found.rows(outcome) for outcome in PLACES}
    for outcome in ("TP", "TN"):
        rows = chosen[outcome]
        chosen[outcome] = rows[np.sort(rng.permutation(rows.size)[:SHOWN])]
    return chosen


def _describe(found: Evaluation, assessment: Assessment, cube: Path, seed: int) -> dict[str, Any]:
    scorer, datacube = found.scorer, found.datacube
    outcomes = outcomes_of(found)
    return {
        "model": {"name": found.name, "identity": scorer.identity, "sha256": scorer.sha256},
        "datacube": {
            "path": str(cube),
            "sha256": sha256(cube),
            "candidates": len(datacube),
            "real": datacube.n_true,
            "bogus": datacube.n_false,
            "without_score": int(np.sum(~found.scored)),
        },
        "planes": scorer.card.planes,
        "threshold": found.threshold,
        "seed": seed,
        "outcomes": {outcome: int(np.sum(outcomes == outcome)) for outcome in OUTCOMES},
        **assessment.to_dict(),
    }


def outcomes_of(found: Evaluation) -> npt.NDArray[np.str_]:
    """Give the outcome of each candidate, text (n,), empty where it has no score."""
    outcomes = np.full(len(found.datacube), "", "<U2")
    for outcome in OUTCOMES:
        outcomes[found.rows(outcome)] = outcome
    return outcomes


def _write_json(content: dict[str, Any], path: Path) -> None:
    with replacing(path) as part:
        part.write_text(f"{json.dumps(content, indent=1, allow_nan=False)}\n", encoding="utf-8")


def _write_candidates(found: Evaluation, path: Path) -> None:
    cube = found.datacube
    columns = (
        cube.files.tolist(),
        cube.candids.tolist(),
        cube.labels.tolist(),
        _numbers(found.scores),
        outcomes_of(found).tolist(),
        _numbers(cube.mags),
        _numbers(cube.errmags),
        cube.filters.tolist(),
        _numbers(cube.fwhms),
    )
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(zip(*columns, strict=True))


def _numbers(values: npt.NDArray[Any]) -> list[str]:
    return ["" if np.isnan(value) else f"{value:.9g}" for value in values.tolist()]


def _write_pictures(found: Evaluation, chosen: dict[str, Rows], folder: Path, progress: Progress | None) -> None:
    names = {outcome: _picture_names(found, rows, PLACES[outcome]) for outcome, rows in chosen.items()}
    done, total = 0, sum(rows.size for rows in chosen.values())
    with renewing(folder, PICTURES, (name for each in names.values() for name in each)):
        for outcome, rows in chosen.items():
            home = folder / PLACES[outcome]
            home.mkdir(parents=True, exist_ok=True)
            for part in _draw(found, rows, home):
                done += part
                if progress:
                    progress(done, total, f"drawing {outcome}")


def _picture_names(found: Evaluation, rows: Rows, place: str) -> Iterator[str]:
    yield from (f"{place}/{_file_name(found, row)}" for row in rows.tolist())
    yield from (f"{place}/{_sheet_name(number)}" for number in range(1, -(-rows.size // PER_SHEET) + 1))


def _file_name(found: Evaluation, row: int) -> str:
    safe = re.sub(r"[^A-Za-z0-9.+-]+", "_", str(found.datacube.candids[row]))[:LONGEST].strip("._")
    return f"{safe or 'cutout'}_row{row}.png"


def _sheet_name(number: int) -> str:
    return f"sheet_{number}.png"


def _draw(found: Evaluation, rows: Rows, home: Path) -> Iterator[int]:
    planes = found.scorer.card.planes
    for number, start in enumerate(range(0, rows.size, PER_SHEET), 1):
        some = rows[start : start + PER_SHEET]
        pixels = found.pixels(some)
        titles = [title_of(found.datacube, row, float(found.scores[row])) for row in some.tolist()]
        save(draw_sheet(pixels, planes, titles), home / _sheet_name(number))
        for row, cutout, title in zip(some.tolist(), pixels, titles, strict=True):
            save(draw_cutout(cutout, planes, title), home / _file_name(found, row))
        yield some.size


def _write_report(found: Evaluation, model: Path, path: Path, seed: int) -> None:
    from otrain_train.report import write_report

    # The network that was exported says what it looked at; not every model has it at its side.
    network = model.with_suffix(".keras")
    write_report(path, found, network=network if network.is_file() else None, seed=seed)
