import numpy as np
import pytest

pytest.importorskip("tensorflow")

from otrain_infer.normalise import Normalisation
from otrain_train.augment import DEEPEST, EDGES_FRACTION, Edges, FlipsAndTurns, Shifts, augmentations
from otrain_train.settings import AUGMENTATIONS


def apply(layer, batch):
    return np.asarray(layer(batch, training=True))


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(5, 2, shape).astype(np.float32)


@pytest.mark.parametrize(("shape", "ways"), [((4, 4), 8), ((3, 5), 4)])
def test_flips_and_turns_take_every_way_and_no_other(shape, ways):
    cutout = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    turned = [np.rot90(each, k) for each in (cutout, cutout.T) for k in range(4)]
    allowed = {each.tobytes() for each in turned if each.shape == shape}
    assert len(allowed) == ways
    batch = np.repeat(cutout[None, :, :, None], 200, axis=0)
    found = [each.tobytes() for each in apply(FlipsAndTurns(seed=1), batch)[..., 0]]
    assert set(found) == allowed
    assert max(found.count(each) for each in allowed) < 2 * 200 / ways


def test_shifts_go_all_nine_ways_and_repeat_the_edge():
    cutout = noise((5, 6, 2))
    padded = np.pad(cutout, ((1, 1), (1, 1), (0, 0)), mode="edge")
    allowed = {padded[y : y + 5, x : x + 6].tobytes() for y in range(3) for x in range(3)}
    assert len(allowed) == 9
    found = [each.tobytes() for each in apply(Shifts(seed=2), np.repeat(cutout[None], 300, axis=0))]
    assert set(found) == allowed
    assert max(found.count(each) for each in allowed) < 2 * 300 / 9


def masked_pixels(cutouts):
    """Which pixels are 0 in all planes."""
    return (cutouts == 0).all(axis=3)


@pytest.mark.parametrize("method", ["l2", "l2-rows", "robust", "none"])
def test_masked_edges_are_what_the_scorer_makes_of_truncated_cutouts(method):
    raw = noise((400, 20, 23, 3))
    whole = Normalisation(method).apply(raw)
    changed = apply(Edges(seed=3, method=method), whole)
    masked = masked_pixels(changed)
    hit = masked.any(axis=(1, 2))
    assert hit.mean() == pytest.approx(EDGES_FRACTION, abs=0.06)
    assert np.array_equal(changed[~hit], whole[~hit])
    truncated = raw.copy()
    truncated[masked] = np.nan
    # The median and the spread of what is left of 460 pixels of noise differ from those of all by a few per cent.
    tolerance = {"atol": 0.5} if method == "robust" else {"rtol": 1e-5}
    np.testing.assert_allclose(changed[hit], Normalisation(method).apply(truncated)[hit], **tolerance)


def test_masked_edges_are_bands_on_any_side_and_leave_the_centre():
    masked = masked_pixels(apply(Edges(seed=4, method="none"), np.ones((2000, 16, 21, 2), np.float32)))
    masked = masked[masked.any(axis=(1, 2))]
    sides = {
        "low y": masked[:, 0, 10],
        "high y": masked[:, -1, 10],
        "low x": masked[:, 8, 0],
        "high x": masked[:, 8, -1],
    }
    assert (sum(side.astype(int) for side in sides.values()) == 1).all()
    for name, side in sides.items():
        assert side.mean() == pytest.approx(0.25, abs=0.08), name
        length, along = (16, 1) if name.endswith("y") else (21, 2)
        depths = masked[side].all(axis=3 - along).sum(axis=1)
        assert np.array_equal(masked[side].sum(axis=(1, 2)), depths * (16 * 21 // length))
        assert set(depths) == set(range(1, int(DEEPEST * length) + 1))
    assert not masked[:, 7:9, 9:12].any()


def test_a_plane_without_anything_stays_so():
    pixels = noise((50, 16, 16, 2))
    pixels[..., 1] = 0
    changed = apply(Edges(seed=5, method="l2"), pixels)
    assert np.isfinite(changed).all()
    assert (changed[..., 1] == 0).all()


def test_nothing_is_done_but_while_training():
    batch = noise((8, 16, 16, 1))
    for layer in augmentations(AUGMENTATIONS, 0, "l2", 8):
        assert np.array_equal(layer(batch, training=False), batch)


def test_names_choose_what_is_done_and_the_seed_how():
    batch = noise((64, 16, 16, 1))
    assert augmentations(("none",), 0, "l2", 64) == []
    # In one order, whatever the order of the names.
    kinds = [type(each) for each in augmentations(("edges", "flips-turns", "shifts"), 0, "l2", 64)]
    assert kinds == [FlipsAndTurns, Shifts, Edges]
    for name in ("flips-turns", "shifts", "edges"):
        first, again, other = (apply(augmentations((name,), seed, "l2", 64)[0], batch) for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
    # Two that draw with the same seed must not draw the same.
    flips, shifts, edges = (each.draw(1, batch) for each in augmentations(AUGMENTATIONS, 1, "l2", 64))
    assert not np.array_equal(flips, shifts)
    assert not np.array_equal(shifts, edges)
