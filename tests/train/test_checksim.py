"""What was detected of what was inserted: the table that otrain-checkinfer reads, fractions, plots."""

import numpy as np
import pytest
from astropy.table import Table
from test_extract import inserted, make_candidates

from otrain_infer.errors import SourceError, UsageError
from otrain_train.checksim import check_simulation, mag_bins
from otrain_train.crossmatch_tables import read_sources

COLUMNS = "idx filename Xpos Ypos RA Dec mag filter filename2 Nmatches closest_candID all_candIDs edge"


@pytest.fixture
def folder(tmp_path):
    make_candidates([50, 51.4, 20, 80], [45, 45, 30, 60], ID=np.array(["7", "8", "9", "11"])).write(
        tmp_path / "candidates_list.dat"
    )
    inserted([50.2, 30.0], [45.0, 80.0], "sim/a.fits").write(tmp_path / "simulated_objects.list")
    inserted([80.0], [60.0], "sim/a.fits").write(tmp_path / "more_simulated_objects.list")
    return tmp_path


def test_the_table_is_that_of_gmadet(folder):
    check_simulation(folder)
    table = Table.read(folder / "crossmatch.dat", format="ascii.commented_header")
    assert " ".join(table.colnames) == COLUMNS
    assert table["Nmatches"].tolist() == [1, 2, 0]
    assert table["filename2"].tolist() == ["a.fits"] * 3
    assert table["idx"].tolist() == [0, 0, 1]
    assert np.ma.filled(table["closest_candID"].astype(str), "").tolist()[:2] == ["11", "7"]
    text = (folder / "crossmatch.dat").read_text().splitlines()
    assert text[2].endswith("2 7 7,8 N")
    assert text[3].endswith('0 "" "" ""')


def test_checkinfer_reads_it(folder):
    check_simulation(folder)
    notes: list[str] = []
    sources = read_sources(folder / "crossmatch.dat", notes)
    assert notes == []
    assert sources.closest.tolist() == ["11", "7", ""]
    assert sources.near.tolist() == ["11", "7", "8"]
    assert not sources.edge.any()


def test_what_is_said_and_drawn(folder):
    check = check_simulation(folder)
    said = str(check)
    assert "3 sources inserted, 2 detected (66.7%), 4 candidates" in said
    assert "filter r, mag" in said
    made = sorted(path.name for path in (folder / "CheckSim").iterdir())
    assert made == [
        "sim_det_fraction_allbands.png",
        "sim_det_fraction_r.png",
        "sim_mag_distrib_allbands.png",
        "sim_mag_distrib_r.png",
        "sim_mag_recovered.png",
        "summary.txt",
    ]
    assert (folder / "CheckSim/summary.txt").read_text() == f"{said}\n"


def test_bins_hold_all_sources_once():
    mags = np.random.default_rng(0).uniform(14, 23, 500)
    bins = mag_bins(mags, np.ones(500, bool))
    assert np.sum([rows for _, _, rows in bins], axis=0).tolist() == [1] * 500
    for low, high, rows in bins:
        assert ((mags[rows] >= low) & (mags[rows] < high)).all()
    assert len(bins) <= 20
    assert len(mag_bins(mags[:30], np.ones(30, bool))) <= 5
    assert len(mag_bins(np.full(5, 18.0), np.ones(5, bool))) == 1


def test_what_cannot_be_done_is_said(folder, tmp_path_factory):
    with pytest.raises(SourceError, match="otrain-sim makes it"):
        check_simulation(tmp_path_factory.mktemp("empty"))
    with pytest.raises(UsageError, match="radius"):
        check_simulation(folder, -1)
    (folder / "candidates_list.dat").unlink()
    with pytest.raises(SourceError, match="otrain-detect makes it"):
        check_simulation(folder)
