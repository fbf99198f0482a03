"""The report: what it says, that it stands alone, and that it copes with whatever candidates there are."""

import base64
import io
import logging
import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow")

from reports import Page, make_evaluation, make_model
from stirred import stir

from otrain_infer.card import OperatingPoint
from otrain_infer.errors import OutputError
from otrain_train.assessment import Estimate
from otrain_train.embedding import LARGEST, embed_picture
from otrain_train.history import Course
from otrain_train.metrics import figures
from otrain_train.network import build
from otrain_train.report import MISTAKES, SUSPECTS, write_report
from otrain_train.report_tables import format_estimate, format_number, record_rows
from otrain_train.suspects import find_suspects

SECTIONS = ["Figures", "Operating points", "Curves", "Calibration", "Slices", "Worst mistakes", "Suspicious labels",
            "Training", "Model card"]  # fmt: skip
POINTS = (OperatingPoint("fpr-1%", 0.8, math.nan, math.nan, math.nan),)
CALIBRATION = {"temperature": 1.5, "rows": 40, "ece_before": 0.0812, "ece_after": 0.0345, "note": "", "prior": 0.5}
TRAINING = {"settings": {"network": "lite", "epochs": 3}, "counts": {"learnt": {"real": 9, "bogus": 8}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def scorer(folder):
    known = {"operating_points": POINTS, "calibration": CALIBRATION, "training": TRAINING}
    return make_model(folder, metrics={"operating_points_from": "holdout"}, **known)


@pytest.fixture(scope="module")
def evaluation(scorer):
    return make_evaluation(scorer)


def written(folder, evaluation, **options):
    path = write_report(folder / "report.html", evaluation, **options)
    text = path.read_text(encoding="utf-8")
    check_page(text)
    return Page(text)


def check_page(text):
    """Check what holds for every report: it stands alone, and is well-formed and accessible."""
    page = Page(text)
    assert page.each("html") == [{"lang": "en"}]
    assert page.titles("h2") == SECTIONS
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in page.each("a")]
    assert links == [f"#{name}" for name in ids if not name.endswith("-title")]
    for image in page.each("img"):
        assert image["src"].startswith("data:image/png;base64,")
        assert image["alt"]
        assert {"width", "height"} <= set(image)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    beyond = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//|url\(|@import|javascript:", beyond)
    assert "default-src 'none'" in text
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b(?! of)|Undefined|\{\{|\{%", page.text)
    ranks = [int(tag[1]) for tag, _ in page.headings]
    assert ranks[0] == 1
    assert ranks.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(ranks))


@pytest.fixture(scope="module")
def page(folder, evaluation):
    course = [{"epoch": i + 1.0, "loss": 1 / (i + 1), "accuracy": 0.8, "holdout_loss": 0.5, "holdout_accuracy": 0.7}
              for i in range(3)]  # fmt: skip
    return written(folder, evaluation, network=folder / "reported.keras", courses=[Course(0, course, 2)])


def test_the_figures_are_those_of_the_candidates(page, evaluation):
    measured = figures(evaluation.labels, evaluation.scores, 0.5)
    assert "Measured on 120 candidates, 60 real and 60 bogus, called real from a score of 0.5 on." in page.text
    for value in (measured.recall, measured.mcc, measured.auc, measured.brier):
        assert f"{value:.3f}" in page.text
    assert f"bogus {measured.tn} {measured.fp} 60 real {measured.fn} {measured.tp} 60" in page.text
    assert page.text.startswith("reported: report reported Report on the model reported-1@")


def test_points_calibration_and_record_come_from_the_card(page, evaluation):
    at = figures(evaluation.labels, evaluation.scores, 0.8)
    assert "chosen on the holdout rows of the training" in page.text
    assert re.search(rf"fpr-1% 0\.8 {at.recall:.3f} \([^)]*\) {at.fpr:.3f} \([^)]*\) {at.precision:.3f} \(", page.text)
    assert "temperature of 1.500" in page.text
    assert "holdout, 40 0.0812 0.0345" in page.text
    assert "network lite epochs 3" in page.text
    assert "counts, learnt real 9; bogus 8" in page.text
    assert evaluation.scorer.sha256 in page.text


def test_the_error_before_calibration_is_that_of_the_scores_without_the_temperature(page, evaluation):
    scores = np.clip(evaluation.scores.astype(float), 1e-12, 1 - 1e-12)
    before = scores**1.5 / (scores**1.5 + (1 - scores) ** 1.5)
    places = np.minimum((before * 15).astype(int), 14)
    error = sum(
        np.sum(places == k) / 120 * abs(before[places == k].mean() - evaluation.labels[places == k].mean())
        for k in np.unique(places)
    )
    assert f"of this report, 120 {error:.4f} {figures(evaluation.labels, evaluation.scores).ece:.4f}" in page.text


def test_the_worst_mistakes_come_first_with_their_pictures(page, evaluation):
    named = page.titles("h4")
    rows = [evaluation.rows(outcome) for outcome in ("FP", "FN")]
    assert all(2 < each.size < MISTAKES for each in rows)
    assert f"Bogus called real: {rows[0].size}" in page.titles("h3")
    expected = [str(evaluation.datacube.candids[row]) for each in rows for row in each]
    assert named[: len(expected)] == expected
    alts = [image["alt"] for image in page.each("img")]
    assert f"Grad-CAM of {expected[0]}" in alts
    assert f"occlusion of {expected[-1]}" in alts


def test_suspicious_labels_are_shown(page, evaluation):
    suspects = find_suspects(evaluation.labels, evaluation.scores)
    assert suspects.rows.size > 1
    assert f"{suspects.rows.size} of 120 labels look wrong" in page.text
    assert "if the model has not learnt these rows" in page.text
    first = str(evaluation.datacube.candids[suspects.rows[0]])
    shown = min(suspects.rows.size, SUSPECTS)
    assert page.titles("h4")[-shown] == first
    label = "real" if evaluation.labels[suspects.rows[0]] else "bogus"
    assert f"{first} labelled {label} score" in page.text


def test_pictures_are_those_of_the_cutout(page, evaluation):
    row = evaluation.rows("FP")[0]
    name = str(evaluation.datacube.candids[row])
    image = next(image for image in page.each("img") if image["alt"] == f"DIFF of {name}")
    content = base64.b64decode(image["src"].partition(",")[2])
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (24, 24)
        assert image["width"] == image["height"] == "120"
        shades = np.asarray(picture.convert("L"), float)
    cutout = evaluation.datacube.cube[row, ::-1, :, 0]
    known = np.isfinite(cutout)
    assert np.corrcoef(shades[known], cutout[known])[0, 1] > 0.5


def test_large_cutouts_are_shrunk():
    embedded = embed_picture(np.zeros((3 * LARGEST, 3 * LARGEST - 5, 3), np.uint8))
    with Image.open(io.BytesIO(base64.b64decode(embedded.uri.partition(",")[2]))) as picture:
        assert picture.size == (LARGEST - 1, LARGEST)
    colour = np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(embed_picture(colour).uri.partition(",")[2]))) as picture:
        assert np.array_equal(np.asarray(picture), colour)


def test_a_temperature_that_could_not_be_found_is_told(tmp_path, evaluation):
    for calibration, words in (
        (CALIBRATION | {"temperature": 1.0, "note": "not fitted: 3 rows"}, "a temperature was not fitted: 3 rows."),
        (CALIBRATION | {"note": "stopped at its bound"}, "The temperature stopped at its bound."),
    ):
        scorer = make_model(tmp_path, calibration=calibration)
        assert words in written(tmp_path, replace(evaluation, scorer=scorer)).text


def test_the_caller_says_title_run_and_screened_rows(tmp_path, evaluation):
    apart = replace(evaluation, scores=np.where(np.arange(120) == 7, 1 - evaluation.labels, evaluation.labels))
    page = written(
        tmp_path, evaluation, title="Night <7> & more", run={"settings": {"epochs": 9}, "note": None}, screened=apart
    )
    assert page.titles("h1") == ["Night <7> & more"]
    assert "epochs 9" in page.text
    assert "note not given" in page.text
    assert "1 of 120 labels looks wrong" in page.text
    assert "networks that have not learnt these rows; the area under their ROC curve is 0.9" in page.text
    assert "Grad-CAM" not in page.text


def test_several_networks_and_their_courses(tmp_path, evaluation):
    course = [{"epoch": 1.0, "loss": 1.0, "accuracy": 0.8, "holdout_loss": 0.5, "holdout_accuracy": 0.7}]
    page = written(tmp_path, evaluation, courses=[Course(0, course, 1), Course(1, course, 1)])
    assert sum("by epoch" in image["alt"] for image in page.each("img")) == 2


def test_names_are_never_taken_for_markup(tmp_path, scorer):
    names = np.array([f"<img src=x onerror=alert({i})>&\"'" for i in range(24)])
    page = written(tmp_path, make_evaluation(scorer, 12, 12, 0.6, candids=names, filters=names, files=names))
    assert {"img"} & {tag for tag, _ in page.tags}
    assert not any("onerror" in image for image in page.each("img"))
    assert page.titles("h4")[0] in names


def test_another_network_means_no_grad_cam_and_a_warning(tmp_path, evaluation, caplog):
    stir(build("lite", (24, 24, 1), seed=9)).save(tmp_path / "other.keras")
    with caplog.at_level(logging.WARNING):
        page = written(tmp_path, evaluation, network=tmp_path / "other.keras")
    assert "does without Grad-CAM" in caplog.text
    assert "Grad-CAM" not in page.text
    assert "occlusion" in page.text


@pytest.mark.parametrize(("n_true", "n_false"), [(12, 0), (0, 12), (1, 1), (1, 0), (2, 2)])
def test_few_candidates_and_one_class(tmp_path, scorer, n_true, n_false):
    page = written(tmp_path, make_evaluation(scorer, n_true, n_false, noise=0.5))
    one_class = min(n_true, n_false) == 0
    assert ("nothing can be said about telling real from bogus" in page.text) == one_class
    assert ("there are not both here" in page.text) == one_class


def test_no_candidate_with_a_score(tmp_path, evaluation):
    page = written(tmp_path, replace(evaluation, scores=np.full(120, np.nan, np.float32)))
    assert "None of the 120 candidates has a score" in page.text


def test_nothing_wrong(tmp_path, evaluation):
    page = written(tmp_path, replace(evaluation, scores=evaluation.labels.astype(np.float32)))
    assert "Bogus called real: 0 There are none. Real called bogus: 0 There are none." in page.text
    assert "none of 120 labels looks wrong" in page.text


def test_some_without_score_and_nothing_known(tmp_path, evaluation):
    nan, text = np.full(120, np.nan), np.full(120, "")
    known = {"mags": nan, "errmags": nan, "fwhms": nan, "mjds": nan, "filters": text, "candids": text, "files": text}
    scores = evaluation.scores.copy()
    scores[:3] = np.nan
    page = written(tmp_path, replace(evaluation, datacube=replace(evaluation.datacube, **known), scores=scores))
    assert page.text.count("Not known of any candidate with a score.") == 5
    assert "3 more have no score" in page.text
    assert "no magnitude" in page.text


def test_the_model_of_another_project(tmp_path):
    page = written(tmp_path, make_evaluation(make_model(tmp_path, planes=("SCI", "DIFF"))))
    assert "does not say how it was trained" in page.text
    assert "does not say that its scores were calibrated" in page.text
    assert "chosen on the same candidates, which flatters" in page.text


def test_all_candidates_with_the_same_score(tmp_path, evaluation):
    page = written(tmp_path, replace(evaluation, scores=np.full(120, 0.5, np.float32)))
    assert "AUC" in page.text


def test_it_is_small_enough_to_be_sent(tmp_path):
    scorer = make_model(tmp_path, planes=("SCI", "REF", "DIFF"), size=64)
    evaluation = make_evaluation(scorer, 60, 60, noise=0.5)
    assert min(evaluation.rows(outcome).size for outcome in ("FP", "FN")) >= 12
    page = written(tmp_path, evaluation)
    assert len(page.titles("h4")) == 2 * MISTAKES + SUSPECTS
    assert (tmp_path / "report.html").stat().st_size < 3e6


def test_it_is_written_whole_or_not_at_all(tmp_path, evaluation):
    (tmp_path / "report.html").write_text("of an earlier run")
    small = replace(evaluation, datacube=evaluation.datacube.select([0, 119]), scores=evaluation.scores[[0, 119]])
    written(tmp_path, small)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder"):
        write_report(tmp_path / "folder", small)


def test_numbers_as_text():
    assert format_number(None) == format_number(math.nan) == "not defined"
    assert format_estimate(Estimate(0.5, 0.25, 0.75)) == "0.500 (0.250 to 0.750)"
    assert format_estimate(Estimate(0.5, math.nan, math.nan)) == "0.500"
    assert format_estimate(Estimate(math.nan, math.nan, math.nan)) == "not defined"


def test_records_as_rows():
    record = {"a_b": 1, "c": {"d": [1, 2.5], "e": None}, "f": {"g": {"h": True}, "i": False}, "j": ()}
    assert record_rows(record) == [
        ("a b", "1"), ("c", "d 1, 2.5; e not given"), ("f, g", "h yes"), ("f, i", "no"), ("j", "")
    ]  # fmt: skip
