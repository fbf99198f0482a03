"""Models with an int8 copy of their network: which of the two scores a row, and that nothing else decides it."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from networks import CASCADE, make_card, make_model, make_two_precisions

from otrain_infer import Scorer, read_cutouts
from otrain_infer.card import Golden
from otrain_infer.cli import infer
from otrain_infer.cli import model as command
from otrain_infer.errors import ModelError, UsageError
from otrain_infer.session import has_fast_int8
from otrain_infer.table import read_table

needs_fast_int8 = pytest.mark.skipif(not has_fast_int8(), reason="this processor has no VNNI, so int8 is not taken")


@pytest.fixture(scope="module")
def content():
    return make_two_precisions()


@pytest.fixture(scope="module")
def pixels():
    rows = np.random.default_rng(5).normal(size=(300, 64, 64, 1)).astype(np.float32)
    rows[7] = 1
    return rows


@pytest.fixture(scope="module")
def copy(pixels):
    return Scorer(make_model(gain=20.0)).score_pixels(pixels)


@pytest.fixture(scope="module")
def network(pixels):
    return Scorer(make_model(gain=30.0)).score_pixels(pixels)


def near(scores):
    return ((scores >= 0.4) & (scores <= 0.6)) | ((scores >= 0.9) & (scores <= 0.95))


def test_each_precision_is_what_it_says(content, pixels, copy, network):
    assert np.nanmax(np.abs(copy - network)) > 0.01
    np.testing.assert_array_equal(Scorer(content, precision="fp32").score_pixels(pixels), network)
    np.testing.assert_array_equal(Scorer(content, precision="int8").score_pixels(pixels), copy)


@needs_fast_int8
def test_auto_scores_again_what_lies_near_a_threshold(content, pixels, copy, network):
    scorer = Scorer(content)
    rows = near(copy)
    assert 10 < rows.sum() < 290
    np.testing.assert_array_equal(scorer.score_pixels(pixels), np.where(rows, network, copy))
    assert (scorer.precision, scorer.rescored) == ("int8", rows.sum())


@needs_fast_int8
@pytest.mark.parametrize(("threads", "batch_size"), [(1, 1), (1, 7), (3, 16), (2, 300)])
def test_neither_batches_nor_threads_change_a_bit(content, pixels, threads, batch_size):
    scorer = Scorer(content, threads=threads, batch_size=batch_size)
    np.testing.assert_array_equal(scorer.score_pixels(pixels), Scorer(content).score_pixels(pixels))


@needs_fast_int8
def test_files_are_scored_as_their_pixels(content, folder):
    card = Scorer(content).card
    expected = Scorer(content).score(read_cutouts(str(folder), card=card))
    scorer = Scorer(make_two_precisions(replace(card, cascade=replace(CASCADE, intervals=((0.0, 1.0),)))))
    found = np.concatenate([scores for _, scores in Scorer(content).score_sources(str(folder))])
    np.testing.assert_array_equal(found, expected)
    everything = np.concatenate([scores for _, scores in scorer.score_sources(str(folder))])
    precisely = Scorer(content, precision="fp32").score(read_cutouts(str(folder), card=card))
    np.testing.assert_array_equal(everything, precisely)
    assert scorer.rescored == len(precisely)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_pickled_scorer_keeps_its_precision(content, pixels, precision):
    scorer = Scorer(content, precision=precision)
    again = pickle.loads(pickle.dumps(scorer))  # noqa: S301
    np.testing.assert_array_equal(again.score_pixels(pixels), scorer.score_pixels(pixels))
    assert again.precision == precision


def test_a_model_of_one_precision_has_no_other():
    assert Scorer(make_model(), precision="fp32").precision == "fp32"
    with pytest.raises(UsageError, match="cannot be run in int8: all that it holds is fp32"):
        Scorer(make_model(), precision="int8")
    with pytest.raises(UsageError, match="precision 'fp64' is unknown"):
        Scorer(make_model(), precision="fp64")


def test_a_card_and_a_graph_that_disagree_are_refused():
    with pytest.raises(ModelError, match="int8 copy"):
        Scorer(make_two_precisions(make_card()))
    with pytest.raises(ModelError, match="int8 copy"):
        Scorer(make_model(make_card(cascade=CASCADE)))
    with pytest.raises(ModelError, match="int8 copy"):
        Scorer(make_two_precisions(name="other"))


def test_the_ends_of_an_interval_are_near_and_nan_is_not():
    scores = np.array([0.4, 0.6, 0.90, 0.95, np.nextafter(np.float32(0.4), np.float32(0)), 0.7, np.nan], np.float32)
    assert CASCADE.is_near(scores).tolist() == [True, True, True, True, False, False, False]


def test_the_command_takes_a_precision_and_says_what_was_scored_again(content, folder, tmp_path, capsys):
    model = tmp_path / "two.onnx"
    model.write_bytes(content)
    asked = ["--cutouts", str(folder), "--model", str(model), "--output", str(tmp_path / "scores.csv")]
    assert infer([*asked, "--precision", "fp32"]) == 0
    assert "again" not in capsys.readouterr().err
    expected = Scorer(content, precision="fp32").score(read_cutouts(str(folder), card=Scorer(content).card))
    np.testing.assert_array_equal(np.float32(read_table(tmp_path / "scores.csv")["label1"]), expected)
    card = make_card(cascade=replace(CASCADE, intervals=((0.0, 1.0),)))
    model.write_bytes(make_two_precisions(card))
    assert infer(asked) == 0
    said = "10 scores near a threshold were computed in fp32 again" if has_fast_int8() else "taking fp32"
    assert said in capsys.readouterr().err


def test_show_and_verify_tell_of_both_precisions(pixels, network, copy, tmp_path, capsys):
    model = tmp_path / "two.onnx"

    def written(off=0.0, copy_off=0.0):
        cascade = replace(CASCADE, golden=tuple(map(float, copy[:4] + np.float32(copy_off))))
        golden = Golden(pixels[:4], network[:4] + np.float32(off))
        model.write_bytes(make_two_precisions(make_card(cascade=cascade, golden=golden)))
        return str(model)

    assert command(["show", written()]) == 0
    shown = capsys.readouterr().out
    assert "scored again       20.00% of them, whose int8 score is in 0.4-0.6, 0.9-0.95" in shown
    assert "by int8 alone      2.00% at threshold" in shown
    assert command(["verify", written()]) == 0
    assert "in fp32 (allowed 0.0001)" in capsys.readouterr().out
    assert command(["verify", written(off=0.001)]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert command(["verify", written(copy_off=0.05)]) == int(has_fast_int8())


@pytest.mark.parametrize(
    "cascade",
    [
        replace(CASCADE, intervals=()),
        replace(CASCADE, intervals=((0.6, 0.4),)),
        replace(CASCADE, intervals=((float("nan"), 0.6),)),
        replace(CASCADE, intervals=((0.7, 0.8),)),
        replace(CASCADE, rows="x"),
        replace(CASCADE, flips={"threshold": "x"}),
    ],
)
def test_a_card_whose_guard_is_off_is_refused(cascade):
    with pytest.raises(ModelError, match="incomplete or damaged"):
        Scorer(make_two_precisions(make_card(cascade=cascade)))


def test_thresholds_without_a_guard_are_warned_of(content, folder, tmp_path, capsys):
    (tmp_path / "two.onnx").write_bytes(content)
    asked = ["--cutouts", str(folder), "--model", str(tmp_path / "two.onnx"), "--output", str(tmp_path / "s.csv")]
    for more in (["--threshold", "0.7"], ["--prob-ratio", "0.1"], []):
        assert infer([*asked, *more]) == 0
        assert ("guarded at the thresholds of the model" in capsys.readouterr().err) == (bool(more) and has_fast_int8())
