"""Candidates are found near inserted sources, anywhere on the sphere, against astropy's own search."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord, search_around_sky

from otrain_infer.errors import UsageError
from otrain_train.candidates_list import Candidates, from_table
from otrain_train.match import match
from otrain_train.simulated_objects import SimulatedObjects


def objects_at(ra, dec, x=0.0, y=0.0, files="a.fits") -> SimulatedObjects:
    ra, dec = np.atleast_1d(ra).astype(float), np.atleast_1d(dec).astype(float)
    n = len(ra)
    full = np.full
    return SimulatedObjects(
        np.arange(n), np.broadcast_to(np.array(files, np.str_), n).copy(), full(n, x) + 0.0, full(n, y) + 0.0, ra, dec,
        full(n, 20.0), full(n, "r"), full(n, 1.0),
    )  # fmt: skip


def candidates_at(ra, dec, x=0.0, y=0.0, images="a.fits") -> Candidates:
    n = len(np.atleast_1d(ra))
    columns = {"RA": np.atleast_1d(ra), "Dec": np.atleast_1d(dec), "Xpos": np.full(n, x), "Ypos": np.full(n, y)}
    return from_table(columns | {"OriginalIma": np.broadcast_to(np.array(images, np.str_), n)}, "a test")


@pytest.mark.parametrize("centre", [(10.0, 0.0), (0.0, 0.0), (359.9999, -45.0), (123.0, 89.9995), (200.0, -89.9999)])
def test_the_same_pairs_as_astropy(centre):
    rng = np.random.default_rng(1)
    middle = SkyCoord(*centre, unit="deg")

    def scattered(n):
        return middle.directional_offset_by(rng.uniform(0, 360, n) * u.deg, rng.uniform(0, 20, n) * u.arcsec)

    sources, found = scattered(60), scattered(200)
    matched = match(objects_at(sources.ra.deg, sources.dec.deg), candidates_at(found.ra.deg, found.dec.deg), 3.0)
    first, second, apart, _ = search_around_sky(sources, found, 3 * u.arcsec)
    assert sum(rows.size for rows in matched.near) == len(first) > 60
    for k in range(60):
        expected = second[first == k][np.argsort(apart[first == k])]
        assert matched.near[k].tolist() == expected.tolist()
        if expected.size:
            assert matched.distances[k] == pytest.approx(apart[first == k].arcsec.min(), abs=1e-6)
            assert matched.closest[k] == expected[0]
        else:
            assert np.isnan(matched.distances[k])
            assert matched.closest[k] == -1


def test_only_candidates_of_the_same_image_count():
    matched = match(objects_at([1, 1], [1, 1], files=["a.fits", "b.fits"]), candidates_at([1], [1], images="b.fits"), 1)
    assert [rows.tolist() for rows in matched.near] == [[], [0]]


def test_folders_of_images_do_not_matter():
    matched = match(objects_at(1, 1, files="sim/a.fits"), candidates_at([1], [1], images="/data/a.fits"), 1)
    assert matched.closest.tolist() == [0]


def test_where_a_pipeline_has_renamed_the_images_all_candidates_count():
    matched = match(objects_at(1, 1, files="a.fits"), candidates_at([1], [1], images="a_reg_0.fits"), 1)
    assert matched.closest.tolist() == [0]


def test_without_a_wcs_distances_are_in_pixels():
    nan = float("nan")
    matched = match(objects_at(nan, nan, 10, 20), candidates_at([nan, nan], [nan, nan], [10.5, 13], [20, 20]), 2)
    assert matched.near[0].tolist() == [0]
    assert matched.distances[0] == pytest.approx(0.5)
    assert matched.in_pixels.all()


def test_no_candidates_at_all():
    matched = match(objects_at(1, 1), candidates_at(np.empty(0), np.empty(0)), 1)
    assert matched.closest.tolist() == [-1]


def test_a_radius_must_be_positive():
    with pytest.raises(UsageError, match="radius"):
        match(objects_at(1, 1), candidates_at([1], [1]), 0)
