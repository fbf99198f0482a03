import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otrain_infer.normalise import Normalisation
from otrain_infer.robust_kernels import asinh, median_and_mad

TINY = np.finfo(np.float32).smallest_subnormal
HUGE = np.finfo(np.float32).max
ODD = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, TINY, -TINY, 3 * TINY, HUGE, -HUGE, 3.4e38]
VALUES = st.floats(width=32) | st.sampled_from(ODD) | st.integers(-3, 3).map(float)


def measure(values):
    values = np.ascontiguousarray(values, np.float32)
    return median_and_mad(values, np.empty(values.size, np.int32))


def measure_plainly(values):
    values = np.asarray(values, np.float32)
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return 0, 0.0, 0.0
    median = np.median(finite)
    return finite.size, median, np.median(np.abs(finite - median))


@settings(deadline=None, max_examples=500)
@given(arrays(np.float32, st.integers(1, 40), elements=VALUES))
def test_median_and_mad_are_those_of_numpy_to_the_bit(values):
    assert measure(values) == measure_plainly(values)


PLANES = {
    "sky": lambda rng, n: rng.normal(0, 10, n),
    "photons": lambda rng, n: rng.poisson(3, n),
    "few": lambda rng, n: rng.choice([-0.0, 0.0, 1.0, TINY, -TINY, HUGE, -HUGE], n),
    "any bits": lambda rng, n: rng.integers(0, 1 << 32, n, dtype=np.uint64).astype(np.uint32).view(np.float32),
    "all binades": lambda rng, n: rng.choice([-1, 1], n) * 2.0 ** rng.uniform(-149, 127, n),
    "two levels": lambda rng, n: np.where(np.arange(n) % 2, 1e6, 10) + rng.normal(size=n),
    "a ramp": lambda rng, n: np.arange(n),
}


@settings(deadline=None, max_examples=300)
@given(
    kind=st.sampled_from(sorted(PLANES)),
    n=st.integers(255, 1100) | st.sampled_from([3969, 4096]),
    seed=st.integers(0, 99),
    missing=st.sampled_from([0, 0.01, 0.5, 0.99]),
    mislead=st.sampled_from([None, -HUGE, HUGE, np.nan, 0.0]),
)
def test_planes_large_enough_to_be_sampled(kind, n, seed, missing, mislead):
    rng = np.random.default_rng(seed)
    values = np.array(PLANES[kind](rng, n), np.float32)
    values[rng.random(n) < missing] = rng.choice([np.nan, np.inf, -np.inf])
    if mislead is not None:
        # The sample is told from nothing but the size.
        values[:: n // 16 - n // 1024][:16] = mislead
    assert measure(values) == measure_plainly(values)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 4095, 4096])
@pytest.mark.parametrize("sky", [0, 1000, -3e30])
def test_planes_of_odd_and_even_size(n, sky):
    rng = np.random.default_rng(n)
    for values in (sky + 30 * rng.normal(size=n), sky + rng.poisson(3, n), np.full(n, sky), rng.lognormal(0, 20, n)):
        assert measure(values) == measure_plainly(values)


def test_distances_that_one_float_stands_for_are_told_apart():
    rng = np.random.default_rng(0)
    values = np.concatenate([np.full(1000, 5.0), rng.uniform(1e-12, 1e-9, 999)])
    for n in (1999, 1998, 1996):
        assert measure(values[-n:]) == measure_plainly(values[-n:])


def ulps(found, expected):
    expected = np.asarray(expected, np.float64)
    return np.abs(found - expected) / np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)


def test_asinh_is_right_within_an_ulp_of_float32_over_the_whole_range():
    sizes = np.concatenate(
        [np.geomspace(1e-300, 1e149, 20001), np.geomspace(1e-5, 1e-3, 2001), np.geomspace(0.1, 10, 2001)]
    )
    for values in (sizes, -sizes):
        found = np.array([asinh(value) for value in values])
        np.testing.assert_allclose(found, np.arcsinh(values), rtol=1e-11, atol=0)
        assert (ulps(found.astype(np.float32), np.arcsinh(values)) <= 1).all()
    assert [np.signbit(asinh(zero)) for zero in (0.0, -0.0)] == [False, True]


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 1e30, 1e34])
def test_robust_scaling_is_right_within_two_ulps(scale):
    rng = np.random.default_rng(0)
    plane = (scale * rng.standard_t(1.5, (64, 64))).astype(np.float32)
    plane[3, 4:9] = np.nan, np.inf, -np.inf, 0.0, -0.0
    found = Normalisation("robust").apply(plane[np.newaxis, ..., np.newaxis])[0, ..., 0]
    _, median, mad = measure_plainly(plane)
    finite = np.isfinite(plane)
    expected = np.arcsinh((plane[finite].astype(np.float64) - median) / (1.4826 * mad))
    assert (ulps(found[finite], expected) <= 2).all()
    assert not found[~finite].any()
