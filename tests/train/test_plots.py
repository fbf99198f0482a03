import numpy as np
import pytest
import sklearn.metrics as peer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from otrain_train.calibrate import operating_points
from otrain_train.canvas import save
from otrain_train.metrics import figures
from otrain_train.plots import (
    Part,
    draw_confusion,
    draw_mcc_f1,
    draw_recall,
    draw_reliability,
    draw_roc,
    draw_scores,
)

RNG = np.random.default_rng(2)
LABELS = RNG.integers(0, 2, 400)
SCORES = np.clip(RNG.normal(0.3 + 0.4 * LABELS, 0.2), 0, 1).astype(np.float32)

AWKWARD = {
    "two rows": ([0, 1], [0.2, 0.9]),
    "one row": ([1], [0.4]),
    "no rows": ([], []),
    "real only": ([1] * 30, np.linspace(0, 1, 30)),
    "bogus only": ([0] * 30, np.linspace(0, 1, 30)),
    "no scores": ([0, 1, 1], [np.nan] * 3),
    "all alike": ([0, 1] * 20, [0.7] * 40),
    "zero and one": ([0, 1] * 20, [0.0, 1.0] * 20),
    "upside down": ([0, 1] * 20, [1.0, 0.0] * 20),
    "one without score": ([0, 1, 1], [0.1, np.nan, 0.9]),
}


def rng():
    return np.random.default_rng(0)


def draw_all(labels, scores, threshold=0.5, title="a model"):
    labels, scores = np.asarray(labels, np.int64), np.asarray(scores, np.float32)
    parts = [Part("17 to 18", labels, scores), Part("18 to 19", labels[:0], scores[:0])]
    return {
        "scores": draw_scores(labels, scores, threshold, title),
        "roc": draw_roc(parts, title, rng(), "3 without magnitude left out"),
        "recall": draw_recall(parts, title, rng(), "3 without magnitude left out"),
        "mcc_f1": draw_mcc_f1(labels, scores, threshold, title, rng()),
        "reliability": draw_reliability(labels, scores, title),
        "confusion": draw_confusion(figures(labels, scores, threshold), title),
    }


def words(figure):
    """All that is written in a figure."""
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    for legend in figure.legends:
        texts += [legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())]
    return "\n".join([*texts, *(axes.get_title() for axes in figure.axes)])


def is_whole(figure):
    """Whether all that is drawn lies within the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box, (width, height) = figure.get_tightbbox(canvas.get_renderer()), figure.get_size_inches()
    return min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.01


@pytest.mark.parametrize("rows", AWKWARD)
def test_any_rows_can_be_drawn_and_written(rows, tmp_path):
    for name, figure in draw_all(*AWKWARD[rows]).items():
        picture = imread(save(figure, tmp_path / f"{name}.png"))
        assert picture.shape[0] > 400
        assert np.ptp(picture) > 0


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_any_threshold_can_be_drawn(threshold, tmp_path):
    for name, figure in draw_all(LABELS, SCORES, threshold).items():
        save(figure, tmp_path / f"{name}.png")


@pytest.mark.parametrize(
    ("rows", "plot", "said"),
    [
        ("real only", "roc", "17 to 18: 30 real, 0 bogus"),
        ("real only", "mcc_f1", "30 real and 0 bogus"),
        ("all alike", "mcc_f1", "the same score"),
        ("no scores", "scores", "None of 3 candidates has a score"),
        ("no scores", "reliability", "No candidate has a score"),
        ("no scores", "confusion", "No candidate has a score"),
        ("no rows", "recall", "no such interval"),
        ("one without score", "scores", "1 without score left out"),
        ("bogus only", "recall", "3 without magnitude left out"),
    ],
)
def test_what_cannot_be_measured_is_said(rows, plot, said):
    assert said in words(draw_all(*AWKWARD[rows])[plot]).replace("\n", " ")


def test_legends_tell_counts_areas_and_what_is_not_measurable():
    drawn = draw_all(LABELS, SCORES)
    real, bogus = int(LABELS.sum()), int((1 - LABELS).sum())
    roc = words(drawn["roc"])
    assert f"17 to 18: {real} real, {bogus} bogus, AUC {peer.roc_auc_score(LABELS, SCORES):.3f} (" in roc
    assert "18 to 19: 0 real, 0 bogus, not measurable" in roc
    assert "3 without magnitude left out" in roc
    assert f"AP {peer.average_precision_score(LABELS, SCORES):.3f} (" in words(drawn["recall"])


def test_fractions_on_either_side_of_the_threshold_are_those_of_the_true_class():
    text = words(draw_scores(LABELS, SCORES, 0.6, "t"))
    for label, name in ((0, "bogus"), (1, "real")):
        above = SCORES[label == LABELS] >= np.float32(0.6)
        assert f"{above.size} {name}: {(~above).sum()} ({100 * (~above).mean():.1f} %) below" in text
        assert f"{above.sum()} ({100 * above.mean():.1f} %) called real" in text


def test_the_best_threshold_is_the_operating_point():
    point = {each.name: each for each in operating_points(LABELS, SCORES)}["best-f1-mcc"]
    measured = figures(LABELS, SCORES, point.threshold)
    text = words(draw_all(LABELS, SCORES, 0.9)["mcc_f1"])
    assert f"best threshold {point.threshold:.3g}: F1 {measured.f1:.3f}, MCC {measured.mcc:.3f}" in text
    assert "threshold in use 0.9" in text


def test_a_threshold_beyond_all_scores_has_no_mcc():
    assert "threshold in use 1: F1 0.000, MCC not defined" in words(draw_all(LABELS, SCORES * 0.5, 1.0)["mcc_f1"])


def test_a_straight_roc_curve_is_bent_on_the_logarithmic_axis():
    figure = draw_roc([Part("all", LABELS, np.full(LABELS.size, 0.5, np.float32))], "t", rng())
    line = figure.axes[1].lines[1]
    assert np.allclose(line.get_xdata(), line.get_ydata())
    assert np.sum(line.get_xdata() < 0.01) > 10


@pytest.mark.parametrize("title", ["a$b$c", "m" * 150, "模型 of the night", "one\ntwo", "_x $"])
def test_names_are_shown_as_they_are_and_nothing_is_clipped(title):
    for name, figure in draw_all(LABELS, SCORES, 0.5, title).items():
        assert is_whole(figure), name


def test_names_of_parts_are_shown_as_they_are():
    part = Part("_$a$_", LABELS, SCORES)
    assert r" _\$a\$_: " in words(draw_roc([part], "t", rng()))


def test_ten_curves_fit_in_the_plot():
    parts = [Part(f"interval {i} of {10 * '9'}", LABELS[i::10], SCORES[i::10]) for i in range(10)]
    for draw in (draw_roc, draw_recall):
        assert is_whole(draw(parts, "t", rng()))


def test_the_same_seed_gives_the_same_picture(tmp_path):
    first, second = (draw_all(LABELS, SCORES)["roc"] for _ in range(2))
    assert save(first, tmp_path / "a.png").read_bytes() == save(second, tmp_path / "b.png").read_bytes()
