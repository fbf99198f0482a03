"""One page that says all about a model: report.html, which needs no other file and no network."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from otrain_infer import __version__
from otrain_infer.atomic import replacing
from otrain_infer.errors import ModelError
from otrain_train.assessment import Assessment, assess
from otrain_train.embedding import Embedded, embed_figure
from otrain_train.evaluation import Evaluation
from otrain_train.exhibits import Exhibit, exhibit_mistakes, exhibit_suspects
from otrain_train.explanation import Cam
from otrain_train.history import Course, draw_course
from otrain_train.metrics import figures
from otrain_train.plots import Part, draw_mcc_f1, draw_recall, draw_reliability, draw_roc, draw_scores
from otrain_train.report_tables import (
    calibration_rows,
    figure_rows,
    format_estimate,
    format_number,
    model_rows,
    point_rows,
    record_rows,
)
from otrain_train.slices import slices_of
from otrain_train.splits import Rows
from otrain_train.suspects import find_suspects

log = logging.getLogger(__name__)

MISTAKES, SUSPECTS = 12, 12
"""False positives, false negatives and suspicious labels that are shown, at most."""

SMALL, SQUARE = (5.6, 4.5), (5.6, 5.6)
"""Sizes of plots of which two stand side by side (inches)."""

COURSES = {
    "loss": "Where it rises for the holdout rows while it falls for the others, the network learns by heart.",
    "accuracy": "The fraction of rows called what they are.",
}

CHECKED = 64
"""Rows on which the network is compared with the exported model."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of the page.

    Attributes
    ----------
    picture
        The plot.
    alt
        What it shows, for those who do not see it.
    caption
        How to read it.
    """

    picture: Embedded
    alt: str
    caption: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """Mistakes of one kind: the worst of them, out of how many."""

    title: str
    count: int
    exhibits: list[Exhibit]


def write_report(
    path: Path,
    evaluation: Evaluation,
    *,
    title: str | None = None,
    network: Path | None = None,
    courses: Sequence[Course] = (),
    run: dict[str, Any] | None = None,
    screened: Evaluation | None = None,
    seed: int = 0,
) -> Path:
    """Write the report on a model, whole or not at all.

    Parameters
    ----------
    path
        The .html file.
    evaluation
        Labelled candidates and what the model makes of them: all figures are of these.
    title
        Of the page; the name of the model if not given.
    network
        The Keras file that the model was exported from, for Grad-CAM. Without it, or where it is another network, the
        maps are those of occlusion alone.
    courses
        How the training of each network went.
    run
        What `otrain_train.provenance.describe_run` gave; if not given, what the card of the model says of it.
    screened
        Candidates with scores of networks that have not learnt them, among which suspicious labels are sought;
        `evaluation` if not given.
    seed
        Decides the resamples that give the intervals.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OutputError
        When it cannot be written.
    """
    page = render_report(evaluation, title, network, courses, run, screened or evaluation, seed)
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def render_report(
    evaluation: Evaluation,
    title: str | None,
    network: Path | None,
    courses: Sequence[Course],
    run: dict[str, Any] | None,
    screened: Evaluation,
    seed: int,
) -> str:
    """Give the page as text; the parameters are those of `write_report`."""
    card, labels, scores = evaluation.scorer.card, evaluation.labels, evaluation.scores
    assessment = assess(labels, scores, evaluation.threshold, np.random.default_rng(seed), card.operating_points)
    cam = _open_cam(network, evaluation)
    suspects = find_suspects(screened.labels, screened.scores)
    page: str = _template().render(
        title=title or card.name,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        program=f"otrain {__version__}",
        evaluation=evaluation,
        scorer=evaluation.scorer,
        card=card,
        figures=assessment.figures,
        estimates=assessment.estimates,
        figure_rows=figure_rows(assessment),
        points=point_rows(evaluation, assessment),
        curves=_draw_curves(evaluation, assessment, seed),
        calibration=calibration_rows(evaluation, assessment.figures),
        reliability=_draw_reliability(evaluation),
        slicings=slices_of(evaluation, np.random.default_rng(seed)),
        galleries=[_gallery(evaluation, outcome, cam) for outcome in ("FP", "FN")],
        has_cam=cam is not None,
        suspects=suspects,
        suspicious=list(exhibit_suspects(screened, suspects, SUSPECTS)),
        screened_apart=screened is not evaluation,
        screened_auc=figures(screened.labels, screened.scores).auc,
        courses=_draw_courses(courses, card.name),
        settings=record_rows((run or card.training).get("settings", {})),
        record=record_rows({key: value for key, value in (run or card.training).items() if key != "settings"}),
        model=model_rows(evaluation.scorer),
    )
    return page


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": format_number, "estimate": format_estimate}
    environment.tests["known"] = lambda value: value is not None and math.isfinite(value)
    return environment.from_string(resources.files("otrain_train").joinpath("report.html").read_text(encoding="utf-8"))


def _open_cam(network: Path | None, evaluation: Evaluation) -> Cam | None:
    if network is None:
        return None
    from otrain_train.saliency import open_grad_cam

    rows = np.flatnonzero(evaluation.scored)[:CHECKED]
    try:
        return open_grad_cam(network, evaluation.scorer, evaluation.pixels(rows))
    except ModelError as error:
        log.warning("the report does without Grad-CAM: %s", error)
        return None


def _draw_curves(evaluation: Evaluation, assessment: Assessment, seed: int) -> list[Plot]:
    labels, scores, threshold = evaluation.labels, evaluation.scores, evaluation.threshold
    distribution = Plot(
        embed_figure(draw_scores(labels, scores, threshold, "Scores"), SMALL),
        "Histogram of the scores of real and of bogus candidates.",
        "The scores of real and of bogus candidates. The further apart, the better.",
    )
    if assessment.figures.n == 0:
        return []
    if assessment.figures.one_class:
        return [distribution]
    part, auc = Part("all", labels[evaluation.scored], scores[evaluation.scored]), assessment.estimates["auc"]
    precision = assessment.estimates["average_precision_real"]
    return [
        Plot(
            embed_figure(draw_roc([part], "ROC", np.random.default_rng(seed))),
            f"ROC curve; the area under it is {format_estimate(auc)}.",
            "Which part of the real candidates is found at the price of which part of the bogus ones; on the right "
            "where few bogus ones are let through.",
        ),
        Plot(
            embed_figure(draw_recall([part], "Precision and recall", np.random.default_rng(seed)), SMALL),
            f"Precision-recall curve; the average precision is {format_estimate(precision)}.",
            "Which part of what is called real is so. It depends on how many candidates are real: expect a lower "
            "curve where fewer are.",
        ),
        distribution,
        Plot(
            embed_figure(draw_mcc_f1(labels, scores, threshold, "MCC and F1", np.random.default_rng(seed))),
            "F1 and MCC by threshold, and against each other.",
            "How good the calls are at each threshold.",
        ),
    ]


def _draw_reliability(evaluation: Evaluation) -> Plot | None:
    if not evaluation.scored.any():
        return None
    return Plot(
        embed_figure(draw_reliability(evaluation.labels, evaluation.scores, "Reliability"), SQUARE),
        "Reliability diagram: the fraction of real candidates against the score.",
        "Of the candidates with a score of 0.8, eight in ten should be real: the points should lie on the line.",
    )


def _gallery(evaluation: Evaluation, outcome: str, cam: Cam | None) -> Gallery:
    rows: Rows = evaluation.rows(outcome)
    title = {"FP": "Bogus called real", "FN": "Real called bogus"}[outcome]
    return Gallery(title, rows.size, list(exhibit_mistakes(evaluation, rows[:MISTAKES], cam)))


def _draw_courses(courses: Sequence[Course], name: str) -> list[Plot]:
    return [
        Plot(
            embed_figure(draw_course(courses, quantity, name), SMALL),
            f"The {quantity} of the rows learnt from and of the holdout rows, by epoch.",
            caption,
        )
        for quantity, caption in (COURSES.items() if courses else ())
    ]
