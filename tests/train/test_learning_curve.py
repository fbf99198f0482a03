"""The learning curve against known laws, an independent fit, and made-up studies."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from otrain_train.learning_curve import LEAST_SIZES, PowerLaw, fit_curve, fit_power_law

SIZES = np.unique(np.geomspace(200, 10_000, 12).round())


def made_up(law, rng, repeats=3, spread=0.01, shared=0.0):
    """Sizes, errors and repeats of a study whose trainings scatter about a law, alike within a repeat."""
    errors = []
    for _ in range(repeats):
        noise = rng.normal(size=SIZES.size)
        for i in range(1, SIZES.size):
            noise[i] = shared * noise[i - 1] + np.sqrt(1 - shared**2) * noise[i]
        errors.append(law.error(SIZES) + spread * (SIZES / SIZES.max()) ** -0.3 * noise)
    return np.tile(SIZES, repeats), np.concatenate(errors), np.repeat(np.arange(repeats), SIZES.size)


@pytest.mark.parametrize(
    ("floor", "rise", "power"), [(0.05, 0.05, 0.5), (0.0, 0.1, 0.3), (0.1, 0.02, 1.5), (0.2, 0, 1)]
)
def test_a_law_without_noise_is_found(floor, rise, power):
    law = PowerLaw(floor, rise, power, SIZES.max())
    found = fit_power_law(SIZES, law.error(SIZES))
    np.testing.assert_allclose([found.floor, found.rise], [floor, rise], atol=1e-5)
    if rise:
        assert found.power == pytest.approx(power, rel=1e-3)
    np.testing.assert_allclose(found.error(2 * SIZES), law.error(2 * SIZES), atol=1e-5)


def test_the_fit_is_that_of_scipy():
    rng = np.random.default_rng(4)
    n, errors, _ = made_up(PowerLaw(0.05, 0.05, 0.5, SIZES.max()), rng)
    spreads = n**-0.3
    found = fit_power_law(n, errors, spreads)
    (floor, rise, power), _ = curve_fit(
        lambda x, a, b, c: a + b * x**-c, n / n.max(), errors, (0.01, 0.1, 1.0), spreads, bounds=(0, [1, 1, 4])
    )
    np.testing.assert_allclose([found.floor, found.rise, found.power], [floor, rise, power], rtol=1e-3)


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_intervals_hold_the_truth_as_often_as_they_say(shared):
    law, rng = PowerLaw(0.05, 0.05, 0.5, SIZES.max()), np.random.default_rng(1)
    gain = float(law.error(law.rows) - law.error(2 * law.rows))
    acceptable = (0.05 / 0.06) ** 2 * law.rows
    held = []
    for trial in range(60):
        curve = fit_curve(*made_up(law, rng, shared=shared), 0.01, np.random.default_rng(trial))
        held.append(
            (
                curve.gain.low <= gain <= curve.gain.high,
                curve.acceptable.low <= acceptable <= curve.acceptable.high,
                np.mean((curve.low <= law.error(curve.sizes)) & (law.error(curve.sizes) <= curve.high)),
            )
        )
    # 90 % is meant; 60 trials scatter by 4 %.
    assert (np.mean(held, axis=0) > 0.78).all()
    assert (np.mean(held, axis=0) < 0.995).all()


def test_answers_of_a_steep_curve():
    law = PowerLaw(0.0, 0.1, 0.5, SIZES.max())
    curve = fit_curve(*made_up(law, np.random.default_rng(2), spread=0.002), 0.01, np.random.default_rng(0))
    assert curve.gain.value == pytest.approx(0.1 * (1 - 2**-0.5), abs=0.004)
    assert curve.acceptable.value == pytest.approx((0.1 / 0.11) ** 2 * law.rows, rel=0.1)
    assert (curve.sizes[0], curve.sizes[-1]) == (SIZES.min(), pytest.approx(2 * SIZES.max()))
    assert (curve.low <= curve.law.error(curve.sizes)).all()
    assert (curve.law.error(curve.sizes) <= curve.high).all()
    assert curve.reason == ""


def test_the_same_study_gives_the_same_answer_in_any_order():
    study = made_up(PowerLaw(0.05, 0.05, 0.5, SIZES.max()), np.random.default_rng(3))
    order = np.random.default_rng(0).permutation(study[0].size)
    ordered, mixed = (
        fit_curve(*(each[rows] for each in study), 0.01, np.random.default_rng(0)) for rows in (slice(None), order)
    )
    assert ordered.gain == mixed.gain
    assert ordered.acceptable == mixed.acceptable


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        (np.full(36, 0.1), "does not fall"),
        (np.zeros(36), "does not fall"),
        (0.1 + 0.01 * np.random.default_rng(0).normal(size=36), "does not fall"),
        (np.tile(0.1 + SIZES / 1e5, 3), "does not fall"),  # worse with more
    ],
)
def test_what_cannot_be_told_is_said(errors, reason):
    curve = fit_curve(np.tile(SIZES, 3), errors, np.repeat(np.arange(3), 12), 0.01, np.random.default_rng(0))
    assert reason in curve.reason
    assert (curve.law, curve.gain, curve.acceptable, curve.sizes.size) == (None, None, None, 0)


def test_too_few_sizes():
    few = SIZES[: LEAST_SIZES - 1]
    curve = fit_curve(few, 1 / few, np.zeros(few.size), 0.01, np.random.default_rng(0))
    assert "there are 4" in curve.reason


def test_one_training_of_each_size_and_a_power_at_its_bound():
    once = fit_curve(SIZES, 0.05 + SIZES**-0.5, np.zeros(12), 0.01, np.random.default_rng(0))
    assert once.gain.low <= once.gain.value <= once.gain.high
    steep = fit_curve(SIZES, 0.05 + 100 * (SIZES / 200) ** -9.0, np.zeros(12), 0.01, np.random.default_rng(0))
    assert "stopped at its bound" in steep.reason
