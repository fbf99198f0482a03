from dataclasses import replace

import numpy as np
import pytest
from astropy.visualization import ZScaleInterval
from matched import PLANES, make_cube
from matplotlib.image import imread

from otrain_train.canvas import DPI, save
from otrain_train.gallery import MISSING, draw_cutout, draw_sheet, shades_of, title_of


@pytest.fixture(scope="module")
def cube():
    return make_cube(6, 24)


def as_picture(figure, path):
    """The picture as the eye sees it: uint8 (height, width, 3)."""
    return np.rint(255 * imread(save(figure, path))[..., :3]).astype(np.uint8)


def find(picture, part):
    """How many times a part is in a picture, pixel by pixel."""
    height, width = part.shape[:2]
    starts = np.argwhere((picture == part[0, 0]).all(axis=2))
    return sum(np.array_equal(picture[y : y + height, x : x + width], part) for y, x in starts)


def test_shades_are_those_of_zscale_with_the_highest_y_on_top(cube):
    plane = make_cube(1, 0).cube[0, :, :, 0]
    plane = np.where(np.isfinite(plane), plane, 0)
    expected = np.rint(255 * ZScaleInterval()(plane.astype(float), clip=True))[::-1]
    assert np.array_equal(shades_of(plane), np.repeat(expected[..., np.newaxis], 3, axis=2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_have_their_own_colour(value):
    plane = np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32)
    plane[0, 3] = value
    shades = shades_of(plane)
    assert tuple(shades[-1, 3]) == MISSING
    assert (shades[:-1] == shades[:-1, :, :1]).all()


@pytest.mark.parametrize("filled", [np.nan, 0.0, 7.5, 3.4e38])
def test_planes_without_contrast_are_drawn(filled):
    plane = np.full((16, 16), filled, np.float32)
    assert len(np.unique(shades_of(plane).reshape(-1, 3), axis=0)) == 1
    plane[2, 2] = 1.0
    shades_of(plane)


def test_a_template_of_absurd_values_does_not_overflow():
    plane = np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32)
    plane[5, 5], plane[6, 6] = 3.4e38, -3.4e38
    assert np.unique(shades_of(plane)).size > 5


def test_a_picture_holds_every_plane_with_square_pixels(cube, tmp_path):
    picture = as_picture(draw_cutout(cube.cube[0], PLANES, title_of(cube, 0, 0.5)), tmp_path / "c.png")
    scale = 8
    for i in range(len(PLANES)):
        enlarged = shades_of(cube.cube[0, :, :, i]).repeat(scale, 0).repeat(scale, 1)
        assert find(picture, enlarged) == 1
    assert (picture[:, :3] == 255).all()
    assert (picture[:, -3:] == 255).all()


def test_a_sheet_holds_every_cutout(cube, tmp_path):
    titles = [title_of(cube, row, 0.5) for row in range(24)]
    picture = as_picture(draw_sheet(cube.cube[:24], PLANES, titles), tmp_path / "s.png")
    assert picture.shape[1] <= 1200
    for row in range(24):
        assert find(picture, shades_of(cube.cube[row, :, :, 1]).repeat(5, 0).repeat(5, 1)) == 1


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (2, 63, 64, 3), (1, 3000, 3000, 1), (3, 700, 10, 3)])
def test_a_sheet_of_any_size_can_be_drawn(shape, tmp_path):
    pixels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    planes = ("SCI", "REF", "DIFF")[: shape[3]]
    picture = as_picture(draw_sheet(pixels, planes, ["a\nb"] * shape[0]), tmp_path / "s.png")
    assert max(picture.shape) < 3000


def test_titles_say_what_is_known(cube):
    some = replace(
        cube.select([0, 1, 2, 3]),
        candids=np.array(["ZTF1", "", "", "x$y$"]),
        files=np.array(["f", "true/a.fits", "", "f"]),
        mags=np.array([18.234, np.nan, 17.0, 16.0]),
        errmags=np.array([0.051, 0.1, np.nan, 0.2]),
    )
    titles = [title_of(some, row, score) for row, score in enumerate((0.9734, np.nan, 0.0, 1.0))]
    assert titles == [
        "ZTF1\nmag 18.23 ± 0.05\nscore 0.973",
        "true/a.fits\nno magnitude\nno score",
        "row 2\nmag 17.00\nscore 0.000",
        "x$y$\nmag 16.00 ± 0.20\nscore 1.000",
    ]


@pytest.mark.parametrize("title", ["n" * 400, "W" * 90, "$x_1$ ${", "目标 \U0001f600 \x07", "", "a\n\nb\nc\nd"])
def test_any_title_is_drawn_within_the_picture(cube, title):
    figure = draw_cutout(cube.cube[0], PLANES, title)
    figure.canvas.draw()
    width, height = figure.bbox.size
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height + 1
    assert figure.dpi == DPI
