import numpy as np
import pytest
from cutout_files import draw
from networks import make_card

from otrain_infer.datacube import count_rows, iter_datacube
from otrain_infer.errors import DatacubeError
from otrain_infer.flags import CutoutFlag


@pytest.fixture
def arrays():
    cube = np.stack([np.stack([draw(10 * n + p) for p in range(2)], axis=-1) for n in range(7)])
    return {
        "cube": cube,
        "labels": np.arange(7) % 2,
        "mags": np.arange(7.0),
        "errmags": np.arange(7.0) / 10,
        "filters": np.array(list("grizgri")),
        "fwhms": np.full(7, 3.0),
        "candids": np.arange(7),
    }


def save(path, arrays, **more):
    np.savez(path, **{**arrays, **more})
    return path


def rows_of(path, card, **options):
    return list(iter_datacube(path, card, **options))


def test_rows_come_as_cutouts(tmp_path, arrays):
    path = save(tmp_path / "c.npz", arrays)
    parts = rows_of(path, make_card(("SCI", "REF")), chunk=3)
    assert [len(part) for part in parts] == [3, 3, 1]
    assert count_rows(path) == 7
    assert np.array_equal(np.concatenate([part.pixels for part in parts]), arrays["cube"])
    assert parts[1].names.tolist() == [f"{path}[{row}]" for row in (3, 4, 5)]
    assert parts[1].header["MAG"].tolist() == [3, 4, 5]
    assert parts[1].header["CANDID"].tolist() == ["3", "4", "5"]
    assert not parts[0].flags.any()


def test_planes_are_picked_by_name(tmp_path, arrays):
    path = save(
        tmp_path / "c.npz", arrays, planes=np.array(["DIFF", "SCI"]), files=np.array([f"{n}.fits" for n in range(7)])
    )
    (part,) = rows_of(path, make_card(("SCI",)))
    assert np.array_equal(part.pixels[..., 0], arrays["cube"][..., 1])
    assert part.names[2] == "2.fits"
    with pytest.raises(DatacubeError, match="planes DIFF, SCI and the model takes REF"):
        rows_of(path, make_card(("REF",)))


def test_the_originals_cubes(tmp_path, arrays):
    """One-hot labels, no filters and fwhms; a single plane may lack its axis."""
    cube = arrays["cube"][..., 0]
    path = save(
        tmp_path / "c.npz", {"cube": cube, "labels": np.eye(2, dtype="f4")[arrays["labels"]], "mags": arrays["mags"]}
    )
    (part,) = rows_of(path, make_card())
    assert np.array_equal(part.pixels[..., 0], cube)
    assert (part.flags == CutoutFlag.MISSING_KEYWORD).all()


def test_blank_and_nan_rows_are_flagged(tmp_path, arrays):
    arrays["cube"][1, ..., 0] = 5
    arrays["cube"][2, 3, 4, 1] = np.nan
    (part,) = rows_of(save(tmp_path / "c.npz", arrays), make_card(("SCI", "REF")))
    assert part.flags.tolist() == [0, CutoutFlag.BLANK, CutoutFlag.NAN_PIXELS, 0, 0, 0, 0]
    assert list(part.reasons) == [1]


@pytest.mark.parametrize(
    ("cube", "said"),
    [
        (np.zeros((3, 63, 63, 1)), "63x63 pixels and the model takes 64x64"),
        (np.zeros((3, 64, 64, 3)), "3 unnamed"),
        (np.zeros((3, 64)), "has the axes"),
        (np.full((3, 64, 64, 1), "a"), "holds <U1, not numbers"),
    ],
)
def test_cubes_that_do_not_fit(tmp_path, cube, said):
    np.savez(tmp_path / "c.npz", cube=cube)
    with pytest.raises(DatacubeError, match=said):
        rows_of(tmp_path / "c.npz", make_card())


def test_no_cube(tmp_path):
    np.savez(tmp_path / "c.npz", labels=np.zeros(3))
    with pytest.raises(DatacubeError, match="lacks cube"):
        rows_of(tmp_path / "c.npz", make_card())


@pytest.mark.parametrize(
    "change",
    [
        {"cube": np.zeros((0, 64, 64, 1))},
        {"cube": np.float32(3)},
        {"mags": np.zeros(3)},
        {"mags": np.zeros((7, 2))},
        {"candids": np.array("one")},
        {"files": np.full(6, "a")},
        {"mags": np.full(7, 1j)},
    ],
)
def test_odd_columns_are_refused_in_one_sentence(tmp_path, arrays, change):
    path = save(tmp_path / "c.npz", arrays, **change)
    with pytest.raises(DatacubeError, match="cannot be scored") as caught:
        rows_of(path, make_card(("SCI", "REF")))
    assert "\n" not in str(caught.value)


def test_columns_of_other_types_are_understood(tmp_path, arrays):
    changes = {
        "mags": np.array(["18.5", "faint", "-99", "", "1", "2", "3"]),
        "candids": np.array([b"\xff"] * 7),
        "planes": np.array([b"SCI", b"REF"]),
    }
    (part,) = rows_of(save(tmp_path / "c.npz", arrays, **changes), make_card(("REF",)))
    assert part.header["MAG"][:4].tolist() == pytest.approx([18.5, np.nan, np.nan, np.nan], nan_ok=True)
    assert np.array_equal(part.pixels[..., 0], arrays["cube"][..., 1])


def test_a_damaged_cube_is_refused_before_a_row_is_given(tmp_path, arrays):
    path = save(tmp_path / "c.npz", arrays)
    content = bytearray(path.read_bytes())
    content[content.index(arrays["cube"].tobytes()) + 1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatacubeError, match=r"is damaged: its cube\.npy is not what was written"):
        next(iter_datacube(path, make_card(("SCI", "REF"))))
