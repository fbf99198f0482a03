"""Ensembles: the spread beside the score, in the library, in the table and in the commands."""

import pickle

import numpy as np
import pytest
from astropy.table import Table
from cutout_files import draw, write_cutout
from networks import make_card, make_ensemble, make_model

from otrain_infer import Scorer, read_cutouts
from otrain_infer.card import Golden
from otrain_infer.cli import infer, model
from otrain_infer.errors import ModelError, UsageError
from otrain_infer.scorer import correct_for_ratio, correct_spread_for_ratio
from otrain_infer.table import FORMATS, build_table, read_table, write_table

SEEDS = (7, 8, 9)


@pytest.fixture(scope="module")
def ensemble():
    return make_ensemble(SEEDS)


@pytest.fixture(scope="module")
def pixels():
    return np.stack([draw(seed) for seed in range(150)])[..., np.newaxis]


@pytest.fixture(scope="module")
def members(pixels):
    """What each of the networks gives on its own, float32 (members, n)."""
    return np.stack([Scorer(make_model(seed=seed)).score_pixels(pixels) for seed in SEEDS])


def test_mean_and_spread_are_those_of_the_networks(ensemble, pixels, members):
    scorer = Scorer(ensemble)
    scores, spreads = scorer.score_pixels_with_spread(pixels)
    assert scorer.has_spread
    assert scores.dtype == spreads.dtype == np.float32
    np.testing.assert_allclose(scores, members.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(spreads, members.std(axis=0), atol=1e-6)
    assert np.array_equal(scorer.score_pixels(pixels), scores)
    assert np.ptp(spreads) > 0.1


def test_both_depend_on_their_row_alone(ensemble, pixels):
    expected = Scorer(ensemble).score_pixels_with_spread(pixels)
    for batch_size, threads in ((1, 1), (7, 3), (150, 1)):
        found = Scorer(ensemble, threads=threads, batch_size=batch_size).score_pixels_with_spread(pixels)
        assert np.array_equal(found, expected)
    copy = pickle.loads(pickle.dumps(Scorer(ensemble)))  # noqa: S301
    assert np.array_equal(copy.score_pixels_with_spread(pixels), expected)


def test_unusable_rows_have_neither(ensemble, pixels):
    spoilt = pixels[:20].copy()
    spoilt[5], spoilt[19] = np.nan, 3.0
    scores, spreads = Scorer(ensemble).score_pixels_with_spread(spoilt)
    assert np.flatnonzero(np.isnan(scores)).tolist() == np.flatnonzero(np.isnan(spreads)).tolist() == [5, 19]
    none = Scorer(ensemble).score_pixels_with_spread(spoilt[:0])
    assert [each.shape for each in none] == [(0,), (0,)]


def test_a_single_network_has_none(tiny, pixels):
    scorer = Scorer(tiny)
    scores, spreads = scorer.score_pixels_with_spread(pixels)
    assert not scorer.has_spread
    assert np.array_equal(scores, scorer.score_pixels(pixels))
    assert spreads.shape == scores.shape
    assert np.isnan(spreads).all()


def test_cutouts_and_sources_give_the_same(ensemble, folder):
    (folder / "c5.fits").write_text("no FITS file")
    scorer = Scorer(ensemble)
    cutouts = read_cutouts(folder, card=scorer.card)
    scores, spreads = scorer.score_with_spread(cutouts)
    assert np.isnan(spreads).tolist() == [row == 5 for row in range(10)]
    assert np.array_equal(scores, scorer.score(cutouts), equal_nan=True)
    ((_, *both),) = scorer.score_each_with_spread(sorted(map(str, folder.glob("*.fits"))))
    assert np.array_equal(both, [scores, spreads], equal_nan=True)
    ((_, alone),) = scorer.score_sources(folder)
    assert np.array_equal(alone, scores, equal_nan=True)
    with pytest.raises(UsageError, match="score takes Cutouts"):
        scorer.score_with_spread([str(folder)])


@pytest.mark.parametrize(
    "content",
    [
        make_ensemble(outputs=("spread", "score")),
        make_ensemble(outputs=("score", "variance")),
        make_ensemble(outputs=("spread",)),
        make_ensemble(outputs=("score", "spread", "cutouts")),
        make_ensemble(keep=True),
    ],
    ids=["order", "name", "no score", "three", "shape"],
)
def test_other_outputs_are_refused(content):
    with pytest.raises(ModelError, match="its tensors") as caught:
        Scorer(content)
    assert "\n" not in str(caught.value)


def test_the_ratio_corrects_the_spread_to_first_order():
    rng = np.random.default_rng(0)
    centres = rng.uniform(0.05, 0.95, 200)
    some = np.clip(centres + rng.normal(0, 1e-4, (50, 200)), 0, 1)
    scores, spreads = (each.astype(np.float32) for each in (some.mean(axis=0), some.std(axis=0)))
    for ratio in (0.1, 1, 30):
        expected = correct_for_ratio(some, ratio).astype(np.float64).std(axis=0)
        np.testing.assert_allclose(correct_spread_for_ratio(spreads, scores, ratio), expected, rtol=2e-2, atol=1e-7)
    ends = np.array([0, 1, 0.5, np.nan], np.float32)
    wide = correct_spread_for_ratio(np.full(4, 0.5, np.float32), ends, 1e9)
    assert wide[0] == 0.5
    assert wide[1:3] == pytest.approx(0, abs=1e-8)
    assert np.isnan(wide[3])


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_table_has_one_more_column_at_its_end(ensemble, folder, suffix, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    scorer = Scorer(ensemble)
    cutouts = read_cutouts(folder, card=scorer.card)
    scores, spreads = scorer.score_with_spread(cutouts)
    spreads[3] = np.nan
    write_table(build_table(cutouts, scores, scorer.identity, spreads), tmp_path / f"t{suffix}")
    back = read_table(tmp_path / f"t{suffix}")
    assert back.colnames[-2:] == ["model", "spread"]
    np.testing.assert_allclose(np.ma.filled(back["spread"].astype(float), np.nan), spreads, rtol=1e-6)


def test_the_command_writes_it(ensemble, folder, tmp_path):
    (tmp_path / "ensemble.onnx").write_bytes(ensemble)
    write_cutout(folder / "edge.fits", 30, EDGE="True")
    cube = np.stack([draw(seed) for seed in range(10)])[..., np.newaxis]
    np.savez(tmp_path / "cube.npz", cube=cube, labels=np.zeros(10))
    named = {"f": folder, "d": tmp_path / "cube.npz", "r": tmp_path / "cube.npz", "s": folder}
    more = {"r": ["--prob-ratio", "0.2"], "s": ["--edge", "skip"]}
    tables = {}
    for name, source in named.items():
        output = ["--output", str(tmp_path / f"{name}.ecsv"), *more.get(name, [])]
        assert infer(["--cutouts", str(source), "--model", str(tmp_path / "ensemble.onnx"), *output]) == 0
        tables[name] = Table.read(tmp_path / f"{name}.ecsv")
    expected = Scorer(ensemble).score_pixels_with_spread(cube)
    np.testing.assert_allclose([tables["d"]["label1"], tables["d"]["spread"]], expected, rtol=1e-6)
    np.testing.assert_allclose(tables["f"]["spread"][:10], expected[1], rtol=1e-6)
    corrected = correct_spread_for_ratio(expected[1], expected[0], 0.2)
    np.testing.assert_allclose(tables["r"]["spread"], corrected, rtol=1e-6)
    assert np.flatnonzero(np.isnan(np.ma.filled(tables["s"]["spread"], np.nan))).tolist() == [10]


def test_a_single_network_writes_no_such_column(folder, tiny_path, tmp_path):
    assert infer(["--cutouts", str(folder), "--model", str(tiny_path), "--output", str(tmp_path / "t.ecsv")]) == 0
    assert Table.read(tmp_path / "t.ecsv").colnames[-1] == "model"


def test_show_says_it_and_verify_replays(ensemble, pixels, tmp_path, capsys):
    golden = Golden(pixels[:4], Scorer(ensemble).score_pixels(pixels[:4]))
    path = tmp_path / "e.onnx"
    path.write_bytes(make_ensemble(SEEDS, make_card(golden=golden, training={"members": 3})))
    assert model(["verify", str(path)]) == 0
    assert "4 golden cutouts" in capsys.readouterr().out
    assert model(["show", str(path)]) == 0
    assert "score, the mean of 3 networks, and spread, the standard deviation of theirs" in capsys.readouterr().out
    path.write_bytes(make_model())
    assert model(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "spread" not in shown
