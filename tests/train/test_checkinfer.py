"""The check of scores against simulated sources, end to end."""

import csv

import numpy as np
import pytest
from matplotlib.image import imread

from otrain_infer.errors import UsageError
from otrain_train.checkinfer import CheckSettings, check_inference
from otrain_train.checkinfer_plots import split_at
from otrain_train.cli_evaluate import checkinfer

PLOTS = {
    "distrib_CNN_prob_sim.png",
    "distrib_CNN_prob_all.png",
    "distrib_CNNprob_all_and_sim.png",
    "fraction_per_bin.png",
    "distrib_FWHM_simulation.png",
    "distrib_FWHM_real_vs_sim.png",
}

SOURCE = "{idx} /d/{image}.fits 1.5 2.5 150.0 2.0 {mag} R {image}.fits {n} {candid} {candid} {edge}"
SOURCES_HEAD = "# idx filename Xpos Ypos RA Dec mag filter filename2 Nmatches closest_candID all_candIDs edge"
SCORE = "c/{candid}.fits 150.0 2.0 /d/a.fits 1.0 2.0 {mag} 0.1 {width} 3.0 {candid} {bogus} {score}"
SCORES_HEAD = "# filename RA Dec originalFile Xpos Ypos mag magerr FWHM FWHMPSF cand_ID label0 label1"


def write(folder, sources, scores):
    """Write (mag, candid) of sources and (candid, score, width) of candidates as gmadet and the original do."""
    lines = [
        SOURCE.format(idx=i % 3, image=f"i{i // 3}", mag=mag, n=int(candid is not None), edge="N" if candid else '""',
                      candid='""' if candid is None else candid)
        for i, (mag, candid) in enumerate(sources)
    ]  # fmt: skip
    (folder / "crossmatch.dat").write_text("\n".join([SOURCES_HEAD, *lines]) + "\n")
    lines = [
        SCORE.format(candid=candid, mag=18.0, width=width, bogus=1 - score, score=score)
        for candid, score, width in scores
    ]
    (folder / "infer_results.dat").write_text("\n".join([SCORES_HEAD, *lines]) + "\n")
    return ["--crossmatch", str(folder / "crossmatch.dat"), "--infer", str(folder / "infer_results.dat")]


USUAL = (
    [(11.0, 1), (12.0, 2), (17.9, 3), (18.0, 4), (20.0, None), (21.0, 5), (22.0, None), (19.0, 77)],
    [(1, 0.95, 3.0), (2, 0.7, 3.3), (3, 0.5, 2.7), (4, 0.05, 14.0), (5, "nan", 3.0)]
    + [(100 + i, round(i / 40, 3), 1 + i) for i in range(20)],
)
USUAL = (USUAL[0], [(c, float(s), w) for c, s, w in USUAL[1]])


def test_the_command_writes_what_it_says(tmp_path, capsys):
    kept = tmp_path / "CheckInfer" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    assert checkinfer([*write(tmp_path, *USUAL), "--plots", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    files = {path.name for path in (tmp_path / "CheckInfer").iterdir()}
    assert files == PLOTS | {"summary.txt", "matched.csv", "mine.txt"}
    for name in PLOTS:
        assert imread(tmp_path / "CheckInfer" / name).std() > 0.01
    assert "8 simulated sources, 6 of them found as candidates" in printed.out
    lines = {line[:34].strip(): line[34:].split() for line in printed.out.splitlines()}
    # 77 is in no table, so what became of its source is not known; 5 has no score and reaches no limit.
    assert lines["all simulated sources"] == ["7", "71.4", "42.9", "42.9", "28.6"]
    assert lines["mag < 12"] == ["1", "100.0", "100.0", "100.0", "100.0"]
    assert lines["12 ≤ mag < 18"] == ["2", "100.0", "100.0", "100.0", "50.0"]
    assert lines["18 ≤ mag < 21"] == ["2", "50.0", "0.0", "0.0", "0.0"]
    assert lines["mag ≥ 21"] == ["2", "50.0", "0.0", "0.0", "0.0"]
    assert lines["others (not simulated)"] == ["20", "-", "80.0", "0.0", "0.0"]
    assert "FWHM/FWHMPSF from 0.5 to 4.2: 80.0 % of 5 simulated" in printed.out
    assert "are not in the table of scores" in printed.err
    assert (tmp_path / "CheckInfer" / "summary.txt").read_text().startswith("8 simulated sources")
    assert kept.read_text() == "mine"


def test_one_row_for_each_simulated_source(tmp_path):
    write(tmp_path, *USUAL)
    check_inference(tmp_path, tmp_path, tmp_path)
    with (tmp_path / "CheckInfer" / "matched.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mag"]) for row in rows] == [mag for mag, _ in USUAL[0]]
    assert [row["outcome"] for row in rows] == ["scored"] * 4 + [
        "not found", "not scored", "not found", "not in the table of scores"
    ]  # fmt: skip
    assert [row["score"] for row in rows][:5] == ["0.949999988", "0.699999988", "0.5", "0.0500000007", ""]
    assert float(rows[3]["fwhm_ratio"]) == pytest.approx(14 / 3)
    assert (rows[3]["filename"], rows[3]["idx"]) == ("/d/i1.fits", "0")


@pytest.mark.parametrize(
    ("sources", "scores"),
    [
        ([(15.0, None)], [(1, 0.5, 3.0)]),  # nothing found
        ([(15.0, 7)], [(1, 0.5, 3.0)]),  # not in the table
        ([(15.0, 1)], [(1, 0.5, 3.0)]),  # no others
        ([(15.0, 1)], [(1, float("nan"), 0.0)]),  # no score, no width
        ([(99.0, 1)], [(1, 1.0, 3.0), (2, 0.0, 3.0)]),  # no magnitude
        ([(15.0, 1), (30.0, None)] * 2, [(1, 1.0, 1e6), (2, 0.0, 3.0)]),
    ],
)
def test_little_or_nothing_to_draw(tmp_path, sources, scores):
    write(tmp_path, sources, scores)
    summary = check_inference(tmp_path, tmp_path, tmp_path / "new")
    assert {path.name for path in summary.folder.iterdir()} == PLOTS | {"summary.txt", "matched.csv"}


@pytest.mark.parametrize("limits", [["20"], ["14", "15", "16", "17", "18", "19", "20", "21"]])
def test_any_number_of_limits(tmp_path, limits, capsys):
    options = ["--maglim", *limits, "--cnn_problim", "0.5", "--fwhm_ratio_lower", "0.8", "--fwhm-ratio-upper", "1.2"]
    assert checkinfer([*write(tmp_path, *USUAL), "--plots", str(tmp_path), *options]) == 0
    printed = capsys.readouterr().out
    assert f"mag ≥ {limits[-1]}" in printed
    assert "FWHM/FWHMPSF from 0.8 to 1.2" in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--maglim", "18", "12"], "maglim is finite numbers in ascending order, not 18 12"),
        (["--maglim", "nan"], "maglim is finite"),
        (["--cnn-problim", "0.5", "0.5"], "cnn-problim is finite numbers in ascending order"),
        (["--fwhm-ratio-lower", "5"], "fwhm-ratio-lower and fwhm-ratio-upper is finite"),
        (["--crossmatch", "none.dat"], "there is no table 'none.dat'"),
    ],
)
def test_one_line_for_what_is_wrong(tmp_path, options, said, capsys):
    assert checkinfer([*write(tmp_path, *USUAL), "--plots", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "CheckInfer").exists()


def test_settings_without_limits():
    with pytest.raises(UsageError, match="not nothing"):
        CheckSettings(mag_limits=())


def test_a_range_holds_its_lower_limit_in_the_type_of_the_scores():
    scores = np.float32([0.1, 0.7, 0.0999, 1.0, np.nan, 0.5])
    ranges = split_at(scores, (0.1, 0.5, 0.7), "score")
    assert [label for label, _ in ranges] == ["score < 0.1", "0.1 ≤ score < 0.5", "0.5 ≤ score < 0.7", "score ≥ 0.7"]
    assert [np.flatnonzero(rows).tolist() for _, rows in ranges] == [[2], [0], [5], [1, 3]]
    labels = [label for label, _ in split_at(np.array([19.0]), (12, 18, 21), "mag")]
    assert labels == ["12 ≤ mag < 18", "18 ≤ mag < 21"]
