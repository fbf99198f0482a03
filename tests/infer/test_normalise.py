import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otrain_infer.errors import OtrainError, UsageError
from otrain_infer.normalise import METHODS, Normalisation, Padding, find_blank

ODD = [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 0.0, -0.0, 1.0, 1e-30, np.finfo(np.float32).smallest_subnormal]
VALUES = st.floats(-1e6, 1e6, width=32) | st.sampled_from(ODD)
PIXELS = arrays(
    np.float32, st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 3)), elements=VALUES
)
PADDINGS = st.builds(Padding, value=st.sampled_from([0.0, 1e-9, -3.5]), when=st.sampled_from(["before", "after"]))


def box_of(cutout):
    """The part inside the padding, found the plain way."""
    there = np.isfinite(cutout).any(axis=2)
    rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    inside = np.zeros(there.shape, bool)
    if len(rows):
        inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return inside


def unit(plane):
    plane = np.where(np.isfinite(plane), plane, np.float32(0)).astype(np.float32)
    total = np.sum(plane.astype(np.float64) ** 2)
    with np.errstate(over="ignore"):
        overflows = np.isinf(np.float32(total))
    return plane / np.float32(np.sqrt(total)) if total > 0 and not overflows else np.zeros_like(plane)


def robust(plane):
    finite = plane[np.isfinite(plane)].astype(np.float64)
    if not finite.size:
        return np.zeros_like(plane)
    median = np.median(finite)
    scale = 1.4826 * np.median(np.abs(finite - median)) or finite.std()
    if scale == 0:
        return np.zeros_like(plane)
    return np.where(np.isfinite(plane), np.arcsinh((plane.astype(np.float64) - median) / scale), 0)


REFERENCES = {
    "none": lambda plane: np.where(np.isfinite(plane), plane, 0),
    "l2": unit,
    "l2-rows": lambda plane: np.array([unit(row) for row in plane]),
    "robust": robust,
}


def reference(method, padding, pixels):
    out = np.empty_like(pixels)
    for i, cutout in enumerate(pixels):
        inside = box_of(cutout)
        for p in range(cutout.shape[2]):
            plane = cutout[..., p].copy()
            if padding.when == "before":
                plane[~inside] = padding.value
            scaled = REFERENCES[method](plane)
            out[i, ..., p] = scaled if padding.when == "before" else np.where(inside, scaled, padding.value)
    return out


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=150)
@given(pixels=PIXELS, padding=PADDINGS)
def test_normalisation_is_what_plain_numpy_says(method, padding, pixels):
    found = Normalisation(method, padding).apply(pixels)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = reference(method, padding, pixels)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("shape", [(64, 64, 1), (63, 63, 3), (5, 130, 2), (1, 1, 1), (33, 2, 5)])
def test_planes_of_every_size(method, when, shape):
    rng = np.random.default_rng(0)
    pixels = rng.normal(1000, 30, (6, *shape)).astype(np.float32)
    pixels[1, rng.random(shape) < 0.2] = np.nan
    pixels[2, shape[0] // 2 :] = np.nan
    pixels[3, : shape[0] // 3, ..., 0] = 3.4e38
    pixels[4, ..., -1] = -7
    pixels[5, :, :, 0] = rng.poisson(2, shape[:2])
    normalisation = Normalisation(method, Padding(value=2.5, when=when))
    with np.errstate(over="ignore"):
        expected = reference(method, normalisation.padding, pixels)
    np.testing.assert_allclose(normalisation.apply(pixels), expected, rtol=2e-6, atol=1e-7)
    in_place = pixels.copy()
    normalisation.apply(in_place, in_place)
    assert np.array_equal(in_place, normalisation.apply(pixels))


@pytest.mark.parametrize("method", METHODS)
def test_a_row_does_not_depend_on_its_batch(method):
    pixels = np.random.default_rng(0).normal(10, 3, (5, 16, 16, 2)).astype(np.float32)
    together = Normalisation(method).apply(pixels)
    for i in range(5):
        assert np.array_equal(Normalisation(method).apply(pixels[i : i + 1])[0], together[i])


def test_in_place():
    pixels = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
    expected = Normalisation("robust").apply(pixels)
    assert Normalisation("robust").apply(pixels, pixels) is pixels
    assert np.array_equal(pixels, expected)


def test_l2_has_unit_norm_and_ignores_holes():
    pixels = np.random.default_rng(0).normal(size=(1, 63, 63, 1)).astype(np.float32)
    pixels[0, 30, 30] = np.nan
    found = Normalisation("l2").apply(pixels)
    assert np.linalg.norm(found) == pytest.approx(1, rel=1e-5)
    assert found[0, 30, 30, 0] == 0


def test_a_square_that_overflows_float32_gives_zeros():
    pixels = np.ones((1, 8, 8, 1), np.float32)
    pixels[0, 0, 0, 0] = 3.4e38
    assert not Normalisation("l2").apply(pixels).any()


def test_robust_is_blind_to_sky_and_gain():
    pixels = np.random.default_rng(0).normal(size=(1, 32, 32, 1)).astype(np.float32)
    moved = (1000 + 37 * pixels).astype(np.float32)
    np.testing.assert_allclose(Normalisation("robust").apply(moved), Normalisation("robust").apply(pixels), atol=1e-3)


def test_find_blank():
    pixels = np.random.default_rng(0).normal(size=(5, 4, 4, 2)).astype(np.float32)
    pixels[1, ..., 1] = 3
    pixels[2, ..., 0] = np.nan
    pixels[3, 1:] = np.nan
    pixels[4, ..., 0] = np.where(np.eye(4) > 0, np.inf, 2)
    assert find_blank(pixels).tolist() == [False, True, True, False, True]


@settings(deadline=None)
@given(arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 4), elements=st.sampled_from([1.0, 2.0, *ODD])))
def test_blank_is_what_plain_numpy_says(pixels):
    planes = [cutout[..., p] for cutout in pixels for p in range(pixels.shape[3])]
    blank = [len(np.unique(plane[np.isfinite(plane)])) < 2 for plane in planes]
    assert find_blank(pixels).tolist() == np.reshape(blank, (len(pixels), -1)).any(axis=1).tolist()


def test_the_dictionary_brings_it_back():
    normalisation = Normalisation("l2-rows", Padding("corner", 1e-9, "after"))
    assert Normalisation.from_dict(normalisation.to_dict()) == normalisation


@pytest.mark.parametrize(
    "text", ["", "object", "object,0", "left,0,after", "object,0,never", "object,nan,after", "object,x,after"]
)
def test_padding_that_makes_no_sense(text):
    with pytest.raises(UsageError, match="padding"):
        Padding.parse(text)


def test_padding_as_text():
    assert Padding.parse("corner, 1e-9, before") == Padding("corner", 1e-9, "before")


def test_an_unknown_method_is_named():
    with pytest.raises(OtrainError, match="'zscore' is unknown"):
        Normalisation("zscore")


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("ny", [1, 4, 6, 63])
def test_rows_scaled_together_are_those_scaled_alone_to_the_bit(ny, planes):
    rng = np.random.default_rng(ny)
    pixels = rng.normal(100, 10, (2, ny, 64, planes)).astype(np.float32)
    pixels[0, ny // 2, :, 0] = 0
    pixels[1, 0, 5, planes - 1] = 3.4e38
    alone = np.stack([Normalisation("l2").apply(pixels[:, y : y + 1]) for y in range(ny)], axis=1)[:, :, 0]
    np.testing.assert_array_equal(Normalisation("l2-rows").apply(pixels), alone)


def test_an_out_that_cannot_be_filled_is_refused():
    pixels = np.ones((2, 5, 4, 1), np.float32)
    read_only = np.ones_like(pixels)
    read_only.flags.writeable = False
    for out in (np.ones((2, 5, 4, 2), np.float32)[..., :1], np.ones(pixels.shape), pixels[:1].copy(), read_only):
        with pytest.raises(UsageError, match="out must be float32, C-contiguous, writable and of the shape"):
            Normalisation().apply(pixels, out)
    with pytest.raises(UsageError, match=r"shape \(n, ny, nx, planes\), not \(5, 4, 1\)"):
        Normalisation().apply(pixels[0])
