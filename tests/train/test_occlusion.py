"""Occlusion through the exported model, and how maps are laid on pictures."""

import keras
import numpy as np
import pytest
from keras import layers

from otrain_infer.card import ModelCard
from otrain_infer.normalise import Normalisation
from otrain_infer.scorer import Scorer
from otrain_train.canvas import BOGUS, REAL
from otrain_train.explanation import STRENGTH, lay_on
from otrain_train.export import export
from otrain_train.occlusion import occlusion

SIZE = (22, 30)


@pytest.fixture(scope="module")
def weights():
    """What each pixel counts: two patches of opposite sign in one of two planes."""
    kernel = np.zeros((*SIZE, 2), np.float32)
    kernel[10:12, 14:16, 0] = 0.5
    kernel[3:5, 24:26, 1] = -0.25
    return kernel


@pytest.fixture(scope="module")
def scorer(weights, tmp_path_factory):
    """A model whose logit is a weighted sum of raw pixels."""
    network = keras.Sequential([keras.Input((*SIZE, 2)), layers.Flatten(), layers.Dense(1, "sigmoid")])
    network.layers[-1].set_weights([weights.reshape(-1, 1), np.zeros(1)])
    path = tmp_path_factory.mktemp("model") / "sum.onnx"
    export(network, ModelCard("sum", "1", "", ("SCI", "DIFF"), SIZE, Normalisation("none")), path)
    return Scorer(path)


def cutouts(n=3):
    raw = np.random.default_rng(1).normal(0, 1, (n, *SIZE, 2)).astype(np.float32)
    raw[..., 0] += 100
    return raw - np.median(raw, axis=(1, 2), keepdims=True)


def by_hand(cutout, weights, width, starts):
    """Mean over all patches that cover a pixel of what a linear logit loses with each, pixel by pixel."""
    total, count = np.zeros(SIZE), np.zeros(SIZE)
    loss = (weights * (cutout - np.median(cutout, axis=(0, 1)))).sum(axis=2)
    for y in starts[0]:
        for x in starts[1]:
            part = np.s_[y : y + width[0], x : x + width[1]]
            total[part] += loss[part].sum()
            count[part] += 1
    return total / count


def test_pixels_get_what_the_logit_loses_without_them(scorer, weights):
    raw = cutouts()
    found = occlusion(scorer, raw, np.array([True, False, True]))
    assert found.shape == (3, *SIZE)
    assert found.dtype == np.float32
    # A seventh of 22 and of 30 pixels, rounded up, in steps of half of that, the last one flush with the border.
    starts = ([*range(0, 18, 2), 18], [*range(0, 25, 2), 25])
    for cutout, sign, one in zip(raw, (1, -1, 1), found, strict=True):
        assert one == pytest.approx(sign * by_hand(cutout, weights, (4, 5), starts), abs=2e-4)


def test_what_counts_is_found(scorer):
    raw = 1e-3 * cutouts(1)
    raw[0, 10:12, 14:16, 0] = 3
    raw[0, 3:5, 24:26, 1] = 3
    found = occlusion(scorer, raw, np.array([True]))[0]
    assert np.unravel_index(found.argmax(), SIZE) in [(y, x) for y in range(9, 13) for x in range(13, 17)]
    assert np.unravel_index(found.argmin(), SIZE) in [(y, x) for y in range(2, 6) for x in range(23, 27)]
    assert abs(found[18, 3]) < 1e-2


def test_missing_pixels_stay_missing(scorer):
    raw = cutouts(2)
    raw[0, :, -6:] = np.nan
    raw[1, 10, 14] = np.nan
    found = occlusion(scorer, raw, np.array([True, True]))
    assert np.isfinite(found).all()
    # A patch within the missing columns hides nothing.
    assert (found[0, :, -1] == 0).all()


def test_a_cutout_without_score_has_no_map(scorer):
    raw = cutouts(2)
    raw[0] = 7
    found = occlusion(scorer, raw, np.array([True, True]))
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_where_hiding_a_patch_leaves_nothing_the_others_tell(scorer):
    # One bright pixel in each plane: hidden, the plane is blank, and the model gives no score.
    raw = np.zeros((1, *SIZE, 2), np.float32)
    raw[0, 11, 15] = 2
    found = occlusion(scorer, raw, np.array([True]))[0]
    assert np.isnan(found[11, 15])
    assert (found[:5] == 0).all()


def test_a_saturated_score_is_no_trouble(scorer):
    raw = cutouts(2)
    raw[0] *= 1e6
    assert np.isfinite(occlusion(scorer, raw, np.array([True, False]))).all()


def rgb(colour):
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def test_colours_say_for_which_side_a_pixel_speaks():
    picture = np.full((4, 4, 3), 100, np.uint8)
    weights = np.zeros((4, 4), np.float32)
    weights[0, 0], weights[3, 1] = 2, -1
    for called_real, strong, weak in ((True, REAL, BOGUS), (False, BOGUS, REAL)):
        seen = lay_on(picture, weights, called_real)
        # The lowest y is the last row of a picture.
        assert seen[3, 0] == pytest.approx((1 - STRENGTH) * 100 + STRENGTH * rgb(strong), abs=1)
        assert seen[0, 1] == pytest.approx((1 - STRENGTH / 2) * 100 + STRENGTH / 2 * rgb(weak), abs=1)
        assert (seen[1, 1] == 100).all()
    assert (picture == 100).all()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_nothing_is_coloured_where_nothing_speaks(value):
    picture = np.full((4, 4, 3), 100, np.uint8)
    assert (lay_on(picture, np.full((4, 4), value, np.float32), True) == 100).all()
    some = np.full((4, 4), value, np.float32)
    some[0, 0] = 1
    assert (lay_on(picture, some, True)[:3] == 100).all()
